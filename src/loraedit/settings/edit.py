"""The settings as the user asks for them, validated once."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, ValidationError

from loraedit.errors import InputError
from loraedit.settings.about import About
from loraedit.settings.budget import parse_budget
from loraedit.settings.common import CommonSettings
from loraedit.settings.recipe import Recipe, named_recipe
from loraedit.settings.resolved import ResolvedSettings
from loraedit.settings.values import (
    Context,
    Count,
    Crop,
    DistilledSteps,
    Factor,
    Fill,
    Length,
    Level,
    LoraTargets,
    LrSchedule,
    Margin,
    Quality,
    Rank,
    Rate,
    ReferenceTraining,
    Scale,
    SchedulerName,
    Share,
    Steps,
    Strength,
)

__all__ = ["DEFAULT_MARGIN", "EditSettings", "make_settings"]

DEFAULT_MARGIN = 0.15


class EditSettings(CommonSettings):
    """What the user asked for. In the fields below, None means: not asked for, take what the recipe says.

    ``fill="carry"`` shows the model, inside the mask, the keyframes carried along the source's motion by optical flow,
    and grey where that cannot be trusted; ``grey`` is the paper's choice. Another ``seed`` alone does not train again.
    """

    # ---- mask --------------------------------------------------------------------------------------------------------

    margin: Annotated[Margin | None, About("Mask", trains="motion", plan=True, shapes_mask=True)] = Field(
        None, description="Margin of an automatic mask, as a share of its extent, each side.  [default: 0.15]"
    )

    mask_boxes: Annotated[
        bool | None, About("Mask", trains="motion", plan=True, shapes_mask=True, no_shaping=False)
    ] = Field(None, description="Turn each region of the mask into its box, grown by a tenth.")

    # ---- method ------------------------------------------------------------------------------------------------------

    steps: Annotated[Steps | None, About("Method", trains="motion", plan=True)] = Field(
        None, description="Training steps on the source clip."
    )
    reference_steps: Annotated[Steps | None, About("Method", trains="appearance", plan=True)] = Field(
        None,
        description="Training steps with one reference; several take more, see --reference-training.  [default: as on "
        "the source]",
    )
    reference_training: Annotated[ReferenceTraining | None, About("Method", trains="appearance", plan=True)] = Field(
        None,
        description="Learn several references joint (in one course: 1.9 times the steps of one for two, 2.8 times for "
        "three) or sequential (a course each, ever shorter).",
    )
    trigger: Annotated[str | None, About("Method", trains="motion")] = Field(
        None, description='Word that begins every prompt in training and generation, and so names the edit; "": none.'
    )
    check_every: Annotated[Steps | None, About("Method", trains="motion", plan=True)] = Field(
        None, description="Measure every N steps whether training still gains; 0 runs all steps."
    )
    patience: Annotated[Count | None, About("Method", trains="motion")] = Field(
        None, description="Stop after this many measurements in a row without a gain."
    )
    min_gain: Annotated[Level | None, About("Method", trains="motion")] = Field(
        None, description="Share by which the held-out loss must fall to count as a gain."
    )
    batch_size: Annotated[Count | None, About("Method", trains="motion", plan=True)] = Field(
        None, description="Samples per training step."
    )
    rank: Annotated[Rank | None, About("Method", trains="motion", plan=True)] = Field(
        None, description="LoRA rank; alpha equals it."
    )
    lora_targets: Annotated[LoraTargets | None, About("Method", trains="motion", plan=True)] = Field(
        None, description="Linear layers that the LoRA adapts: all of the blocks, or those of attention."
    )
    lr: Annotated[Rate | None, About("Method", trains="motion")] = Field(None, description="Learning rate.")
    lr_schedule: Annotated[LrSchedule | None, About("Method", trains="motion")] = Field(
        None, description="Learning rate: constant, or falling over the last third of the steps."
    )
    edit_weight: Annotated[Factor | None, About("Method", trains="motion")] = Field(
        None, description="Weight of the loss inside the mask; outside it is 1."
    )
    colour_variants: Annotated[Count | None, About("Method", trains="motion", plan=True)] = Field(
        None, description="Train on the clip in this many colour variants, the original among them."
    )
    min_noise_level: Annotated[Level | None, About("Method", trains="motion", plan=True)] = Field(
        None, description="Train only on noise levels above this."
    )
    prior: Annotated[bool | None, About("Method", trains="motion", plan=True)] = Field(
        None, description="Start the motion LoRA from the mask-reading LoRA that the checkpoint includes."
    )
    fill: Annotated[Fill | None, About("Method", trains="motion", plan=True)] = Field(
        None, description="What the model sees inside the mask: grey, or carry (keyframes carried by optical flow)."
    )
    condition_on_references: Annotated[bool | None, About("Method", trains="motion", plan=True)] = Field(
        None, description="Give the references as fixed frames too, in training and generation."
    )
    area: Annotated[Share | None, About("Method", trains="motion", plan=True)] = Field(
        None, description="Work at no more than this share of the model's frame area: cheaper, with less detail."
    )
    quality: Annotated[Quality | None, About("Method", trains="motion", plan=True)] = Field(
        None,
        description="native works at the clip's own pixels, within the frame areas that suit the model; full scales a "
        "small window up to the model's frame area, for more detail in more time and memory.",
    )
    crop: Annotated[Crop | None, About("Method", trains="motion", plan=True)] = Field(
        None, description="What the model sees: fixed or follow (a window around the mask), off, or auto."
    )
    context: Annotated[Context | None, About("Method", trains="motion", plan=True)] = Field(
        None, description="Surroundings in a window, as a share of the mask's extent, each side."
    )
    segment_frames: Annotated[Length | None, About("Method", trains="motion", plan=True)] = Field(
        None, description="Maximum number of frames generated at once; a longer clip takes overlapping segments."
    )

    # ---- generation --------------------------------------------------------------------------------------------------

    strength: Annotated[Strength | None, About("Generation")] = Field(
        None,
        description="Noise level from which the model may change the carried keyframes: 1 is from the start; "
        "lower keeps more of them.",
    )
    sampling_steps: Annotated[Count | None, About("Generation", plan=True)] = Field(
        None, description="Denoising steps."
    )
    guidance: Annotated[Scale | None, About("Generation", plan=True)] = Field(
        None, description="Classifier-free guidance scale; 1 or less is off."
    )
    negative_prompt: Annotated[str | None, About("Generation")] = Field(
        None, description='What guidance steers away from; "": an empty prompt.'
    )
    scheduler: Annotated[SchedulerName | None, About("Generation", plan=True)] = Field(
        None, description="Solver: euler, unipc, dpm++, or model (the checkpoint's own)."
    )
    flow_shift: Annotated[Scale | None, About("Generation", plan=True)] = Field(
        None, description="Shift of the noise levels towards high noise; 0: the checkpoint's own."
    )
    distilled_steps: Annotated[DistilledSteps | None, About("Generation", plan=True)] = Field(
        None,
        description="Sample in this many steps as a distilled LoRA needs: without guidance, and for Wan by Euler with "
        "flow shift 5; 0: none is distilled.  "
        "[default: by the names of the extra LoRAs]",
    )
    restore_detail: Annotated[bool | None, About("Generation", plan=True)] = Field(
        None, description="With --fill carry, restore the detail lost to the model's size and its VAE."
    )
    blend_latents: Annotated[bool | None, About("Generation")] = Field(
        None, description="Put the preserve zone's latents back after every denoising step."
    )

    def resolved(self, recipe: Recipe) -> ResolvedSettings:
        """Resolves the settings: the recipe answers what the user left open, and the budget caps the steps.

        Resolving resolved values again changes nothing.

        Raises:
            InputError: the budget is not understood.
        """
        defaults = named_recipe(self.recipe, recipe)
        values: dict[str, Any] = {**defaults.model_dump(), "margin": DEFAULT_MARGIN, "distilled_steps": 0}
        if self.lora == "none":
            values["trigger"] = ""  # no LoRA has learnt the word
        values |= self.model_dump(exclude_none=True)
        if values["reference_steps"] is None:
            values["reference_steps"] = values["steps"]
        most, _ = parse_budget(self.budget)
        if most is not None:
            values |= {name: min(values[name], most) for name in ("steps", "reference_steps")}
        resolved = ResolvedSettings.model_validate(values)
        if self.strength is None and not resolved.carries:  # only carried keyframes are something to start from
            return resolved.model_copy(update={"strength": 1.0})
        return resolved


def make_settings(values: dict[str, Any]) -> EditSettings:
    """Validates settings given by name.

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
