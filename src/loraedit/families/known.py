"""The published models that loraedit knows, from the table ``known_models.json``.

A component's configuration holds the published numbers that determine its size. Parameter counts are stored beside
them, so listing models needs no torch; the tests build every component from its configuration and compare the counts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from loraedit.families.model_card import CardFile

__all__ = ["Component", "KnownModel", "known_model", "known_models", "known_names", "usual_settings"]

BYTES = 2
"""Bytes of a parameter in bfloat16."""


class Component(BaseModel):
    """A part of a model that has weights.

    Attributes:
        kind: its class in diffusers or transformers.
        config: the published numbers that determine its size.
        parameters: number of parameters.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: str = Field(alias="class")
    config: dict[str, Any]
    parameters: int


class KnownModel(BaseModel):
    """A published model.

    Attributes:
        id: repository on the Hub.
        name: common name.
        family: name of the :class:`~loraedit.families.FamilyRecord` that runs it.
        pipeline: diffusers' image-to-video pipeline class for it.
        licence: licence of the weights.
        licence_url: page with the licence.
        width: frame width it was trained at, in pixels.
        height: frame height it was trained at, in pixels.
        scheduler: class and configuration of its scheduler.
        index_class: the class that its ``model_index.json`` names, if not ``pipeline``.
        options: other values of ``model_index.json``.
        files: relevant content of its other small files, by path.
        single_file: name of the file, if the model is published as one transformer file with native names, for use
            with the other components of another model.
        components: its components by folder name.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    name: str
    family: str
    pipeline: str
    licence: str
    licence_url: str
    width: int
    height: int
    scheduler: tuple[str, dict[str, Any]]
    index_class: str | None = None
    options: dict[str, Any] = {}
    files: dict[str, dict[str, Any]] = {}
    single_file: str | None = None
    components: dict[str, Component]

    @property
    def short_name(self) -> str:
        """Returns the name that commands accept in place of the id, such as ``wan2.1-i2v-14b-480p``."""
        return self.id.split("/")[1].lower().removesuffix("-diffusers")

    @property
    def parameters(self) -> int:
        """Returns the number of parameters of all components together."""
        return sum(component.parameters for component in self.components.values())

    @property
    def gigabytes(self) -> float:
        """Returns the size of all weights in bfloat16, in 10^9 bytes."""
        return self.parameters * BYTES / 1e9

    @property
    def transformer(self) -> Component:
        """Returns the first transformer."""
        return self.components["transformer"]


@cache
def known_models() -> tuple[KnownModel, ...]:
    """Returns all known models in the order of the table."""
    table = json.loads((Path(__file__).with_name("known_models.json")).read_text(encoding="utf-8"))
    components = {name: Component.model_validate(value) for name, value in table["components"].items()}
    return tuple(
        KnownModel.model_validate(
            {
                **row,
                "components": {folder: components[name] for folder, name in row["components"].items()},
                "licence_url": table["licences"][row["licence"]],
            }
        )
        for row in table["models"]
    )


def known_names() -> list[str]:
    """Returns the short names of all known models, in the order of the table."""
    return [model.short_name for model in known_models()]


def known_model(hub_id: str) -> KnownModel | None:
    """Returns the published model of a Hub id, ignoring case, or None."""
    return next((model for model in known_models() if model.id.lower() == hub_id.lower()), None)


def usual_settings(folder: Path, pipeline: str, transformer: Mapping[str, Any]) -> CardFile:
    """Returns the settings of the published model that a checkpoint without ``loraedit.json`` most likely is.

    Among the models of the same architecture, that is the one whose name is part of the path, else the first.

    Args:
        folder: the checkpoint.
        pipeline: its pipeline class.
        transformer: the configuration of its transformer.
    """
    same_architecture = [
        model
        for model in known_models()
        if model.pipeline == pipeline
        and all(transformer.get(name) == value for name, value in model.transformer.config.items())
    ]
    path = " ".join(folder.resolve().parts).lower()
    named = [model for model in same_architecture if model.id.split("/")[1].lower() in path]
    best = next(iter([*named, *same_architecture]), None)
    return CardFile() if best is None else CardFile(area_px=best.width * best.height)
