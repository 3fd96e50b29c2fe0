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

from loraedit.families.model_card import LEAST_SHARE, CardFile
from loraedit.settings import Recipe

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
        text_tokens: length to which prompts are padded.
        sampling: how its authors sample, where that differs from the paper's recipe. Empty for the paper's own model.
        frame_rate: frames per second that it was trained at.
        source: the page or file with the sampling values and the frame rate.
        note: what to know about these values, in sentences.
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
    text_tokens: int = 512
    sampling: Recipe = Recipe()
    frame_rate: float
    source: str
    note: str = ""
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

    @property
    def card(self) -> CardFile:
        """Returns what ``loraedit.json`` would hold for this model."""
        return CardFile(
            area_px=self.width * self.height,
            least_area_px=round(self.width * self.height * LEAST_SHARE),
            text_tokens=self.text_tokens,
            frame_rate=self.frame_rate,
            source=self.source,
            recipe=self.sampling,
        )


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


def usual_settings(like: str, pipeline: str, transformer: Mapping[str, Any], *places: Path) -> CardFile:
    """Returns the settings of the published model that a checkpoint without ``loraedit.json`` most likely is.

    Among the models of the same architecture, that is the one whose name is part of a path, else the first. A
    checkpoint of another architecture gets the settings of a model that it resembles.

    Args:
        like: Hub id of that model.
        pipeline: the checkpoint's pipeline class.
        transformer: the configuration of its transformer.
        places: where it was found; the first goes first.
    """
    same_architecture = [
        model
        for model in known_models()
        if model.pipeline == pipeline
        and all(transformer.get(name) == value for name, value in model.transformer.config.items())
    ]
    paths = [" ".join(place.resolve().parts).lower() for place in places]
    named = [model for path in paths for model in same_architecture if model.id.split("/")[1].lower() in path]
    for model in (*named, *same_architecture):
        return model.card
    return next(model.card for model in known_models() if model.id == like).model_copy(update={"source": ""})
