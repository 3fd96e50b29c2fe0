"""What the user asked for (:class:`EditSettings`), and the same with every value known (:class:`ResolvedSettings`)."""

from __future__ import annotations

from loraedit.settings.about import PANELS, About, Course, Panel
from loraedit.settings.budget import parse_budget
from loraedit.settings.edit import DEFAULT_MARGIN, EditSettings, make_settings
from loraedit.settings.fields import (
    about,
    affects_plan,
    affects_training,
    fields_in_panel,
    from_recipe,
    is_path,
    shapes_mask,
)
from loraedit.settings.phases import Resources, SamplingSettings, TrainSettings
from loraedit.settings.recipe import PAPER, Recipe
from loraedit.settings.resolved import ResolvedSettings
from loraedit.settings.values import MAX_MARGIN, Crop, Fill, LoraMode, LoraTargets, Seed, WeightStore

__all__ = [
    "DEFAULT_MARGIN",
    "MAX_MARGIN",
    "PANELS",
    "PAPER",
    "About",
    "Course",
    "Crop",
    "EditSettings",
    "Fill",
    "LoraMode",
    "LoraTargets",
    "Panel",
    "Recipe",
    "ResolvedSettings",
    "Resources",
    "SamplingSettings",
    "Seed",
    "TrainSettings",
    "WeightStore",
    "about",
    "affects_plan",
    "affects_training",
    "fields_in_panel",
    "from_recipe",
    "is_path",
    "make_settings",
    "parse_budget",
    "shapes_mask",
]
