"""Looks up the metadata of settings, so that no other module keeps a list of their names."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from types import MappingProxyType
from typing import Any

from loraedit.settings.about import About, Course, Panel
from loraedit.settings.edit import EditSettings
from loraedit.settings.recipe import Recipe

__all__ = [
    "about",
    "affects_plan",
    "affects_training",
    "fields_in_panel",
    "from_recipe",
    "is_path",
    "no_shaping",
    "shapes_mask",
]


@cache
def _all() -> Mapping[str, About]:
    found = {}
    for name, field in EditSettings.model_fields.items():
        (found[name],) = (each for each in field.metadata if isinstance(each, About))
    return MappingProxyType(found)


def about(name: str) -> About:
    """Returns the metadata of a setting.

    Raises:
        KeyError: there is no such setting.
    """
    return _all()[name]


def fields_in_panel(panel: Panel) -> tuple[str, ...]:
    """Returns the settings of a help panel in the order in which they are declared."""
    return tuple(name for name, each in _all().items() if each.panel == panel)


def affects_training(name: str, course: Course) -> bool:
    """True if the setting can change the LoRA of a course of training."""
    first = about(name).trains
    return first == "motion" or first == course


def affects_plan(name: str) -> bool:
    """True if the setting can change a plan (computing, memory, disk or time), or have it refused."""
    return about(name).plan


def is_path(name: str) -> bool:
    """True if the setting's text may name a file or folder."""
    return about(name).path


def shapes_mask(name: str) -> bool:
    """True if the setting takes part in making the edit mask, and has no effect once the mask is made."""
    return about(name).shapes_mask


def no_shaping() -> dict[str, Any]:
    """Returns the settings with which a given mask is used as it is, whatever the recipe says."""
    return {name: each.no_shaping for name, each in _all().items() if each.shapes_mask}


def from_recipe(name: str) -> bool:
    """True if the model's recipe states the default of the setting; ``reference_steps`` may be left open there too."""
    return name in Recipe.model_fields and Recipe.model_fields[name].default is not None
