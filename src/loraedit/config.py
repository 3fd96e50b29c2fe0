"""The settings of an edit, validated once; everything below takes them as given."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from loraedit.errors import InputError

__all__ = ["EditSettings", "LoraMode", "Recipe", "TrainSettings", "make_settings"]

LoraMode = Literal["motion", "naive", "none"]

Count = Annotated[int, Field(ge=1, le=1_000_000)]
Rank = Annotated[int, Field(ge=1, le=1024)]
Rate = Annotated[float, Field(gt=0.0, le=1.0)]
Level = Annotated[float, Field(ge=0.0, lt=1.0)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class TrainSettings(_Settings):
    """What decides how a LoRA is trained.

    Attributes:
        steps: optimiser steps.
        rank: LoRA rank; alpha equals it.
        lr: peak learning rate of AdamW.
        looks: appearance augmentation. 1 trains on the clip as it is; N trains on N variants, the clip itself and
            N - 1 with condition and target recoloured alike, so that the LoRA learns the dance and not the colours.
        time_low: lowest noise level trained on, in [0, 1); 0 trains on all levels.
        train_seed: decides initial weights, order, noise and noise levels.
    """

    steps: Count
    rank: Rank
    lr: Rate
    looks: Count
    time_low: Level
    train_seed: Seed = 0


class Recipe(_Settings):
    """A model's own defaults, from its card."""

    steps: Count = 100
    rank: Rank = 16
    lr: Rate = 1e-4
    looks: Count = 1
    time_low: Level = 0.0
    sampling_steps: Count = 30
    guidance: Annotated[float, Field(ge=0.0)] = 5.0


class EditSettings(_Settings):
    """What the user asked for. None means: the default of the model's card.

    Attributes:
        model: ``nano``, a folder in diffusers layout, or a Hub id.
        lora: ``motion`` is the method, ``naive`` its ablation (no mask), ``none`` the bare model.
        steps: training steps on the source clip; as many again on the references, if there are any.
        rank: LoRA rank.
        lr: learning rate.
        looks: see :class:`TrainSettings`.
        time_low: see :class:`TrainSettings`.
        sampling_steps: denoising steps.
        guidance: classifier-free guidance scale; 1 or less is off.
        prompt: what the edited clip shows.
        source_prompt: what the source clip shows, used in training.
        box: replace each region of the mask by its bounding box, grown by a tenth on each side.
        dilate_px: grow the mask by so many source pixels.
        feather_px: width of the soft border inside the mask, in source pixels.
        fit: resize the edited frames to the source's size instead of refusing them.
        seed: decides the noise that generation starts from.
        train_seed: decides everything random in training; another ``seed`` alone does not train again.
        device: torch device; None takes the best there is.
    """

    model: str = "nano"
    lora: LoraMode = "motion"
    steps: Count | None = None
    rank: Rank | None = None
    lr: Rate | None = None
    looks: Count | None = None
    time_low: Level | None = None
    sampling_steps: Count | None = None
    guidance: Annotated[float, Field(ge=0.0)] | None = None
    prompt: str = ""
    source_prompt: str = ""
    box: bool = False
    dilate_px: Annotated[int, Field(ge=0, le=4096)] = 0
    feather_px: Annotated[int, Field(ge=0, le=4096)] = 2
    fit: bool = False
    seed: Seed = 0
    train_seed: Seed = 0
    device: str | None = None

    def resolved(self, recipe: Recipe) -> EditSettings:
        """The same settings with every None that the recipe can answer filled in."""
        missing = {name: value for name, value in recipe.model_dump().items() if getattr(self, name) is None}
        return self.model_copy(update=missing)

    def training(self) -> TrainSettings:
        """The part that decides the LoRA; call it on resolved settings."""
        return TrainSettings.model_validate({name: getattr(self, name) for name in TrainSettings.model_fields})


def make_settings(values: dict[str, Any]) -> EditSettings:
    """Validated settings.

    Raises:
        InputError: a name is unknown, or a value is out of its range.
    """
    try:
        return EditSettings.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]).replace("_", "-")
        if first["type"] == "extra_forbidden":
            known = ", ".join(EditSettings.model_fields)
            raise InputError(f"There is no setting '{first['loc'][0]}'. Known are {known}.") from error
        message = first["msg"].removeprefix("Input s").replace("hould", "should", 1)
        raise InputError(f"The setting '{name}' {message}, but it is {first['input']!r}.") from error
