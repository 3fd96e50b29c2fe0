"""The settings of an edit, validated once; everything below takes them as given."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from loraedit.errors import InputError
from loraedit.types import Codec

__all__ = [
    "Crop",
    "EditSettings",
    "Fill",
    "LoraMode",
    "Recipe",
    "SamplingSettings",
    "Targets",
    "TrainSettings",
    "make_settings",
]

LoraMode = Literal["motion", "naive", "none"]
Fill = Literal["grey", "carry"]
Targets = Literal["all", "attention"]
Crop = Literal["auto", "fixed", "follow", "off"]

Count = Annotated[int, Field(ge=1, le=1_000_000)]
Steps = Annotated[int, Field(ge=0, le=1_000_000)]
Rank = Annotated[int, Field(ge=1, le=1024)]
Rate = Annotated[float, Field(gt=0.0, le=1.0)]
Level = Annotated[float, Field(ge=0.0, lt=1.0)]
Factor = Annotated[float, Field(gt=0.0, le=1000.0)]
Scale = Annotated[float, Field(ge=0.0)]
Context = Annotated[float, Field(ge=0.0, le=10.0)]
Strength = Annotated[float, Field(gt=0.0, le=1.0)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class TrainSettings(_Settings):
    """What decides how a LoRA is trained.

    Attributes:
        steps: optimiser steps; 0 leaves the LoRA as it starts, which is of use with a prior.
        batch: samples in a step.
        rank: LoRA rank; alpha equals it.
        targets: the linear layers that the LoRA adapts: ``all`` of the blocks, or those of their ``attention``.
        lr: peak learning rate of AdamW.
        edit_weight: how much the loss counts inside the mask, outside counting 1.
        looks: appearance augmentation. 1 trains on the clip as it is; N trains on N variants, the clip itself and
            N - 1 with condition and target recoloured alike, so that the LoRA learns the dance and not the colours.
        time_low: lowest noise level trained on, in [0, 1); 0 trains on all levels.
        train_seed: decides initial weights, order, noise and noise levels.
    """

    steps: Steps
    batch: Count = 1
    rank: Rank
    targets: Targets = "all"
    lr: Rate
    edit_weight: Factor = 1.0
    looks: Count = 1
    time_low: Level = 0.0
    train_seed: Seed = 0


class SamplingSettings(_Settings):
    """What decides how a clip is sampled.

    Attributes:
        sampling_steps: denoising steps.
        guidance: classifier-free guidance scale; 1 or less is off.
        seed: decides the noise.
        strength: noise level to start from; below 1 the condition's own latents shine through the noise.
        hold: put the latents of the kept zone, noised to the level reached, back in their place after every step.
    """

    sampling_steps: Count
    guidance: Scale
    seed: Seed = 0
    strength: Strength = 1.0
    hold: bool = False


class Recipe(_Settings):
    """A model's own defaults, from its card; the defaults here are the paper's. See :class:`EditSettings`."""

    steps: Steps = 100
    reference_steps: Steps | None = None
    batch: Count = 1
    rank: Rank = 16
    targets: Targets = "all"
    lr: Rate = 1e-4
    edit_weight: Factor = 1.0
    looks: Count = 1
    time_low: Level = 0.0
    prior: bool = False
    fill: Fill = "grey"
    detail: bool = False
    anchors: bool = False
    hold: bool = False
    strength: Strength = 1.0
    crop: Crop = "auto"
    context: Context = 0.25
    sampling_steps: Count = 30
    guidance: Scale = 5.0

    def as_in_the_paper(self) -> Recipe:
        """The paper's choices of method; how long, how fast and how to sample stay the model's own."""
        plain = Recipe(crop="off")
        own = {
            name: getattr(self, name)
            for name in ("steps", "reference_steps", "rank", "lr", "sampling_steps", "guidance")
        }
        return plain.model_copy(update=own)


class EditSettings(_Settings):
    """What the user asked for; each field says what it is. None means: what the recipe says.

    ``fill="carry"`` shows the model, inside the mask, the edited frames carried along the source's motion by optical
    flow, and grey where that cannot be trusted; ``grey`` is the paper's. Another ``seed`` alone does not train again.
    """

    model: str = Field("nano", description="nano, a checkpoint folder in diffusers layout, or a Hub id.")
    recipe: Literal["model", "paper"] = Field(
        "model", description="Defaults of method: model (its card's) or paper (LoRA-Edit's own)."
    )
    lora: LoraMode = Field(
        "motion", description="motion (the method), naive (its ablation, no mask) or none (the bare model)."
    )
    steps: Steps | None = Field(None, description="Training steps on the source clip.")
    reference_steps: Steps | None = Field(
        None, description="Training steps on the references; by default as many as on the source."
    )
    batch: Count | None = Field(None, description="Samples in a training step.")
    rank: Rank | None = Field(None, description="LoRA rank; alpha equals it.")
    targets: Targets | None = Field(None, description="Adapt all linear layers of the blocks, or those of attention.")
    lr: Rate | None = Field(None, description="Learning rate.")
    edit_weight: Factor | None = Field(
        None, description="How much the loss counts inside the mask; outside it counts 1."
    )
    looks: Count | None = Field(None, description="Train on the clip in so many colourings, its own among them.")
    time_low: Level | None = Field(None, description="Train on noise levels above this only.")
    prior: bool | None = Field(
        None, description="Start the motion LoRA from the mask-reading LoRA that the checkpoint brings."
    )
    fill: Fill | None = Field(
        None, description="What the model sees inside the mask: grey, or carry (edited frames along the optical flow)."
    )
    detail: bool | None = Field(
        None, description="With carry, restore the detail that the model's size and its VAE cost."
    )
    anchors: bool | None = Field(None, description="Give the references as kept frames too, in training and after.")
    hold: bool | None = Field(None, description="Put the kept zone back in its place after every denoising step.")
    strength: Strength | None = Field(
        None, description="Noise level to start from: 1 is noise alone, less what is shown."
    )
    crop: Crop | None = Field(
        None, description="What the model sees: fixed or follow (windows round the mask), off or auto."
    )
    context: Context | None = Field(
        None, description="Surroundings in a window: share of the mask's extent, each side."
    )
    sampling_steps: Count | None = Field(None, description="Denoising steps.")
    guidance: Scale | None = Field(None, description="Classifier-free guidance scale; up to 1 is off.")
    extra_lora: tuple[str, ...] = Field(
        (), description="A LoRA to generate with as well, FILE[:WEIGHT][:high|low]; may be given several times."
    )
    extra_in_training: bool = Field(False, description="Lay the extra LoRAs under the training too.")
    distilled: Annotated[int, Field(ge=0, le=1000)] | None = Field(
        None,
        description="Sample in so many steps without guidance, as a distilled LoRA wants; 0: none is. "
        "By default as the names of the extra LoRAs say.",
    )
    prompt: str = Field("", description="What the edited clip shows.")
    source_prompt: str = Field("", description="What the source clip shows.")
    box: bool = Field(False, description="Turn each region of the mask into its box, grown a little.")
    dilate_px: Annotated[int, Field(ge=0, le=4096)] = Field(0, description="Grow the mask by so many pixels.")
    feather_px: Annotated[int, Field(ge=0, le=4096)] = Field(2, description="Soft border inside the mask, in pixels.")
    fit: bool = Field(False, description="Resize edited frames of another size to the clip's.")
    seed: Seed = Field(0, description="Decides the noise that generation starts from.")
    train_seed: Seed = Field(0, description="Decides everything random in training.")
    codec: Codec | None = Field(
        None,
        description="h264, h265, av1, prores, ffv1 or png; by default as the name of --out says.",
    )
    device: str | None = Field(None, description="cpu, cuda, cuda:1, mps, xpu; by default the best there is.")

    def resolved(self, recipe: Recipe) -> EditSettings:
        """The same settings with every None that the recipe can answer filled in."""
        defaults = recipe.as_in_the_paper() if self.recipe == "paper" else recipe
        if self.distilled:
            defaults = defaults.model_copy(update={"sampling_steps": self.distilled, "guidance": 1.0})
        missing = {name: value for name, value in defaults.model_dump().items() if getattr(self, name) is None}
        settled = self.model_copy(update=missing)
        longer = settled.steps if settled.reference_steps is None else settled.reference_steps
        shown = settled.fill == "carry" and settled.lora == "motion"  # else there is nothing to start from but noise
        strength = settled.strength if shown or self.strength is not None else 1.0
        return settled.model_copy(update={"reference_steps": longer, "strength": strength})

    def training(self) -> TrainSettings:
        """The part that decides the LoRA; call it on resolved settings."""
        return TrainSettings.model_validate({name: getattr(self, name) for name in TrainSettings.model_fields})

    def sampling(self) -> SamplingSettings:
        """The part that decides the sampling; call it on resolved settings."""
        return SamplingSettings.model_validate({name: getattr(self, name) for name in SamplingSettings.model_fields})


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
