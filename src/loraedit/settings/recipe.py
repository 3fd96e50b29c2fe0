"""Recipes: the defaults of all settings that belong to the method, or depend on the model."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from loraedit.settings.values import (
    Context,
    Count,
    Crop,
    Factor,
    Fill,
    Length,
    Level,
    LoraTargets,
    LrSchedule,
    Quality,
    Rank,
    Rate,
    RecipeName,
    ReferenceTraining,
    Scale,
    SchedulerName,
    Settings,
    Share,
    Steps,
    Strength,
)

__all__ = ["NEGATIVE_PROMPT", "PAPER", "Recipe", "named_recipe"]

NEGATIVE_PROMPT = (
    "overexposed, blurry, out of focus, frozen picture, slideshow, compression artifacts, noise, washed-out grey, "
    "subtitles, watermark, drawing, bad anatomy, distorted face, malformed hands, extra fingers, extra limbs, "
    "crowded background, low quality"
)
"""The negative prompt of the paper's recipe, in our own words."""


class Recipe(Settings):
    """Defaults for the settings that depend on method and model. :class:`EditSettings` describes each field.

    The defaults below are LoRA-Edit as published, for Wan2.1-I2V-14B, except that the model sees a window around the
    mask. A model's card replaces some of them: by what its authors publish for sampling, or by what was measured on it.

    ``reference_steps`` may be None, which is a real answer here: as many steps as on the source.
    """

    steps: Steps = 100
    reference_steps: Steps | None = None
    reference_training: ReferenceTraining = "joint"
    check_every: Steps = 0
    patience: Count = 3
    min_gain: Level = 0.01
    batch_size: Count = 1
    rank: Rank = 16
    lora_targets: LoraTargets = "all"
    lr: Rate = 1e-4
    lr_schedule: LrSchedule = "constant"
    edit_weight: Factor = 1.0
    colour_variants: Count = 1
    min_noise_level: Level = 0.0
    prior: bool = False
    trigger: str = "p3rs0n"
    fill: Fill = "grey"
    restore_detail: bool = False
    condition_on_references: bool = False
    blend_latents: bool = False
    strength: Strength = 1.0
    mask_boxes: bool = True
    area: Share = 1.0
    quality: Quality = "native"
    crop: Crop = "auto"
    context: Context = 0.25
    segment_frames: Length = 81
    sampling_steps: Count = 30
    guidance: Scale = 5.0
    negative_prompt: str = NEGATIVE_PROMPT
    scheduler: SchedulerName = "euler"
    flow_shift: Scale = 5.0


PAPER = Recipe()
"""LoRA-Edit's own recipe."""

_OF_THE_MODEL = (
    "steps", "reference_steps", "rank", "lr", "trigger", "segment_frames", "sampling_steps", "guidance",
    "negative_prompt", "scheduler", "flow_shift",
)  # fmt: skip
"""The fields that a model's card sets for every recipe; all others are the method's."""

_FAST: Mapping[str, Any] = MappingProxyType({"check_every": 10, "patience": 2, "area": 0.5})
_FAST_AT_MOST: Mapping[str, int] = MappingProxyType({"steps": 60, "reference_steps": 60, "sampling_steps": 20})

_PROPAGATE: Mapping[str, Any] = MappingProxyType(
    {
        "steps": 25, "lr_schedule": "falling", "reference_training": "sequential",
        "edit_weight": 4.0, "colour_variants": 6, "fill": "carry", "restore_detail": True, "strength": 0.9,
        "mask_boxes": False,
    }
)  # fmt: skip
_PROPAGATE_AT_MOST: Mapping[str, int] = MappingProxyType({"sampling_steps": 20})


def named_recipe(name: RecipeName, own: Recipe) -> Recipe:
    """Returns a recipe for a model.

    Args:
        name: ``model`` is the model's own; ``paper`` is the published method; ``fast`` is the same with early stopping,
            fewer steps and at most half the area; ``propagate`` shows the model the keyframes, carried along the
            optical flow.
        own: the recipe in the model's card. Its step counts, rates and sampling also apply to the published method.
    """
    if name == "model":
        return own
    of_the_model = {field: getattr(own, field) for field in _OF_THE_MODEL if field in own.model_fields_set}
    paper = PAPER.model_copy(update=of_the_model)
    if name == "fast":
        return paper.model_copy(update={**_FAST, **_at_most(paper, _FAST_AT_MOST)})
    if name == "propagate":
        carrying = paper.model_copy(update={**_PROPAGATE, **of_the_model, "prior": own.prior})
        return carrying.model_copy(update=_at_most(carrying, _PROPAGATE_AT_MOST))
    return paper


def _at_most(recipe: Recipe, limits: Mapping[str, int]) -> dict[str, int]:
    """Returns the limited values of a recipe's fields; a field that is None stays so."""
    values = {name: getattr(recipe, name) for name in limits}
    return {name: min(value, limits[name]) for name, value in values.items() if value is not None}
