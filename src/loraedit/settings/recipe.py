"""A model's own defaults, which its card may set."""

from __future__ import annotations

from loraedit.settings.values import (
    Context,
    Count,
    Crop,
    Factor,
    Fill,
    Length,
    Level,
    LoraTargets,
    Rank,
    Rate,
    Scale,
    Settings,
    Steps,
    Strength,
)

__all__ = ["PAPER", "Recipe", "paper_recipe"]


class Recipe(Settings):
    """Defaults for the settings that depend on the model. :class:`EditSettings` describes each field.

    The defaults below take a quarter of the paper's training steps and 20 of its 30 sampling steps, and show the model
    the keyframes carried along the source's motion. ``benchmarks/cheap.py`` measures on nano what each choice is worth,
    and counts what it saves on a large model; no large model has been trained with it yet.

    ``reference_steps`` may be None, which is a real answer here: as many steps as on the source.
    """

    steps: Steps = 25
    reference_steps: Steps | None = None
    check_every: Steps = 0
    patience: Count = 3
    min_gain: Level = 0.01
    batch_size: Count = 1
    rank: Rank = 16
    lora_targets: LoraTargets = "all"
    lr: Rate = 1e-4
    edit_weight: Factor = 4.0
    colour_variants: Count = 6
    min_noise_level: Level = 0.0
    prior: bool = False
    fill: Fill = "carry"
    restore_detail: bool = True
    condition_on_references: bool = False
    blend_latents: bool = False
    strength: Strength = 0.8
    crop: Crop = "auto"
    context: Context = 0.25
    segment_frames: Length = 81
    sampling_steps: Count = 20
    guidance: Scale = 5.0


PAPER = Recipe(
    steps=100,
    lr=1e-4,
    edit_weight=1.0,
    colour_variants=1,
    fill="grey",
    restore_detail=False,
    strength=1.0,
    crop="off",
    sampling_steps=30,
)
"""LoRA-Edit's own recipe."""

_PACE = ("steps", "reference_steps", "rank", "lr", "segment_frames", "sampling_steps", "guidance")


def paper_recipe(recipe: Recipe) -> Recipe:
    """Returns the paper's method at the model's own pace: step counts, rates and sampling stay as its card states."""
    return PAPER.model_copy(update={name: getattr(recipe, name) for name in _PACE if name in recipe.model_fields_set})
