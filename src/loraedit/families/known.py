"""The published models that loraedit knows: one table, ``known_models.json``, and what follows from it.

A component's configuration there holds the published numbers that decide its size. Counts of parameters are stored
beside them, so that listing models needs no torch; the tests build every component from its configuration and compare.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from loraedit.families.model_card import CardFile

__all__ = ["Component", "KnownModel", "known_model", "known_models", "usual_settings"]

BYTES = 2
"""Of a parameter in bfloat16."""


class Component(BaseModel):
    """A part of a model with weights of its own.

    Attributes:
        kind: its class, of diffusers or transformers.
        config: the published numbers that decide its size.
        parameters: how many it has.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: str = Field(alias="class")
    config: dict[str, Any]
    parameters: int


class KnownModel(BaseModel):
    """A published model.

    Attributes:
        id: where it is on the Hub.
        name: what people call it.
        family: the module of :mod:`loraedit.families` that runs it.
        pipeline: diffusers' pipeline class for image-to-video with it.
        licence: of its weights.
        licence_url: where that can be read.
        width: of the frames it was trained at, in pixels.
        height: of the same.
        scheduler: class and configuration of its scheduler.
        index_class: the class that its ``model_index.json`` names, if it is another one.
        options: what else ``model_index.json`` says.
        files: what else its small files say that decides anything, by path.
        single_file: published as one transformer file in native names, to be used with the rest of another model.
        components: by the name of its folder.
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
    def parameters(self) -> int:
        """Of all components together."""
        return sum(component.parameters for component in self.components.values())

    @property
    def gigabytes(self) -> float:
        """Size of all weights in bfloat16, in 10^9 bytes."""
        return self.parameters * BYTES / 1e9

    @property
    def transformer(self) -> Component:
        """The first transformer."""
        return self.components["transformer"]


@cache
def known_models() -> tuple[KnownModel, ...]:
    """All of them, in the order of the table."""
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


def known_model(hub_id: str) -> KnownModel | None:
    """The published model of a Hub id, whatever the case of its letters."""
    return next((model for model in known_models() if model.id.lower() == hub_id.lower()), None)


def usual_settings(folder: Path, pipeline: str, transformer: Mapping[str, Any]) -> CardFile:
    """The settings of the published model that a checkpoint without ``loraedit.json`` most likely is.

    Of the models of the same architecture it is the one whose name a folder of the path bears, or else the first.

    Args:
        transformer: the configuration of its transformer.
    """
    alike = [
        model
        for model in known_models()
        if model.pipeline == pipeline
        and all(transformer.get(name) == value for name, value in model.transformer.config.items())
    ]
    places = " ".join(folder.resolve().parts).lower()
    named = [model for model in alike if model.id.split("/")[1].lower() in places]
    best = next(iter([*named, *alike]), None)
    return CardFile() if best is None else CardFile(area_px=best.width * best.height)
