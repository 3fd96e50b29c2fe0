"""The settings of an edit, validated once; everything below takes them as given."""

from __future__ import annotations

import re
from math import ceil
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from loraedit.errors import InputError
from loraedit.types import Codec

__all__ = [
    "PAPER",
    "Crop",
    "EditSettings",
    "Fill",
    "LoraMode",
    "Recipe",
    "Resources",
    "SamplingSettings",
    "Targets",
    "TrainSettings",
    "WeightStore",
    "make_settings",
    "parse_budget",
]

LoraMode = Literal["motion", "naive", "none"]
Fill = Literal["grey", "carry"]
Targets = Literal["all", "attention"]
Crop = Literal["auto", "fixed", "follow", "off"]
WeightStore = Literal["full", "fp8"]

Count = Annotated[int, Field(ge=1, le=1_000_000)]
Steps = Annotated[int, Field(ge=0, le=1_000_000)]
Rank = Annotated[int, Field(ge=1, le=1024)]
Rate = Annotated[float, Field(gt=0.0, le=1.0)]
Level = Annotated[float, Field(ge=0.0, lt=1.0)]
Factor = Annotated[float, Field(gt=0.0, le=1000.0)]
Scale = Annotated[float, Field(ge=0.0)]
Context = Annotated[float, Field(ge=0.0, le=10.0)]
Strength = Annotated[float, Field(gt=0.0, le=1.0)]
Length = Annotated[int, Field(ge=5, le=1_000_000)]
Share = Annotated[float, Field(gt=0.0, le=1.0)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class TrainSettings(_Settings):
    """What decides how a LoRA is trained.

    Attributes:
        steps: the most optimiser steps; 0 leaves the LoRA as it starts, which is of use with a prior.
        check_every: measure the held-out loss after so many steps each; 0 never does, and takes all steps.
        patience: so many measurements without a gain end the training.
        min_gain: a gain is a loss that is lower than the best before by this share.
        budget_s: seconds that the steps may take; 0 is no limit. How many steps that is depends on the machine.
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
    check_every: Steps = 0
    patience: Count = 3
    min_gain: Level = 0.01
    budget_s: Scale = 0.0
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
        sampling_steps: denoising steps, all of them taken at or below the strength.
        guidance: classifier-free guidance scale; 1 or less is off.
        seed: decides the noise.
        strength: noise level to start from; below 1 the condition's own latents shine through the noise.
        hold: put the latents of the kept zone, noised to the level reached, back in their place after every step.
        step_cache: First Block Cache: a step whose first block changes by less than this share goes on with the last
            step's other blocks; 0 computes every step.
    """

    sampling_steps: Count
    guidance: Scale
    seed: Seed = 0
    strength: Strength = 1.0
    hold: bool = False
    step_cache: Scale = 0.0


class Resources(_Settings):
    """How the work is fitted to the machine. All but ``weights`` and ``tile_vae`` leave results alike up to rounding.

    Attributes:
        weights: how the frozen weights of a transformer's layers are kept: as they compute, or as 8-bit floats that
            are turned back layer by layer.
        checkpointing: keep only what goes into each block, and compute the block again for its gradients.
        offload_checkpoints: keep that in the host's memory.
        offload_blocks: keep the frozen weights of the blocks in the host's memory, and bring in one at a time.
        offload_encoders: the same for the layers of text and image encoders.
        tile_vae: encode and decode in tiles that overlap.
        attention: diffusers' name of an attention backend; None is torch's own choice.
        compile_blocks: compile a block once, and use it for all.
    """

    weights: WeightStore = "full"
    checkpointing: bool = False
    offload_checkpoints: bool = False
    offload_blocks: bool = False
    offload_encoders: bool = False
    tile_vae: bool = False
    attention: str | None = None
    compile_blocks: bool = False

    @property
    def recomputes(self) -> bool:
        """Whether blocks are computed again for their gradients; what is brought in for a block needs it."""
        return self.checkpointing or self.offload_checkpoints or self.offload_blocks or self.weights != "full"

    def alters(self) -> dict[str, Any]:
        """The part that decides results."""
        defaults = Resources()
        return {
            name: getattr(self, name)
            for name in ("weights", "tile_vae")
            if getattr(self, name) != getattr(defaults, name)
        }


class Recipe(_Settings):
    """A model's own defaults, from its card. See :class:`EditSettings`.

    The defaults here take a quarter of the paper's training steps and 20 of its 30 sampling steps, and show the model
    the edited frames as the source's motion carries them. ``benchmarks/cheap.py`` measures on nano what each of that is
    worth, and counts what it saves on a large model; no large model has been trained with it yet.
    """

    steps: Steps = 25
    reference_steps: Steps | None = None
    check_every: Steps = 0
    patience: Count = 3
    min_gain: Level = 0.01
    batch: Count = 1
    rank: Rank = 16
    targets: Targets = "all"
    lr: Rate = 1e-4
    edit_weight: Factor = 4.0
    looks: Count = 6
    time_low: Level = 0.0
    prior: bool = False
    fill: Fill = "carry"
    detail: bool = True
    anchors: bool = False
    hold: bool = False
    strength: Strength = 0.8
    crop: Crop = "auto"
    context: Context = 0.25
    segment_frames: Length = 81
    sampling_steps: Count = 20
    guidance: Scale = 5.0

    def as_in_the_paper(self) -> Recipe:
        """The paper's choices of method; how long, how fast and how to sample are the card's own, if it says so."""
        names = ("steps", "reference_steps", "rank", "lr", "segment_frames", "sampling_steps", "guidance")
        return PAPER.model_copy(update={name: getattr(self, name) for name in names if name in self.model_fields_set})


PAPER = Recipe(
    steps=100, lr=1e-4, edit_weight=1.0, looks=1, fill="grey", detail=False, strength=1.0, crop="off", sampling_steps=30
)
"""LoRA-Edit's own recipe."""


class EditSettings(_Settings):
    """What the user asked for; each field says what it is. None means: what the recipe says.

    ``fill="carry"`` shows the model, inside the mask, the edited frames carried along the source's motion by optical
    flow, and grey where that cannot be trusted; ``grey`` is the paper's. Another ``seed`` alone does not train again.
    """

    model: str = Field("nano", description="nano, a checkpoint folder in diffusers layout, or a Hub id.")
    transformer: str | None = Field(
        None, description="The transformer as one .safetensors or .gguf file; the rest is the model's."
    )
    transformer_2: str | None = Field(
        None, description="The same for the expert for low noise of a model that has two."
    )
    download: bool = Field(False, description="Fetch from the Hub what is not on this machine.")
    recipe: Literal["model", "paper"] = Field(
        "model", description="Defaults of method: model (its card's) or paper (LoRA-Edit's own)."
    )
    lora: LoraMode = Field(
        "motion", description="motion (the method), naive (its ablation, no mask) or none (the bare model)."
    )
    steps: Steps | None = Field(None, description="Training steps on the source clip.")
    reference_steps: Steps | None = Field(
        None,
        description="Training steps on the first reference, a further one having fewer; by default as many as on "
        "the source.",
    )
    check_every: Steps | None = Field(
        None, description="Measure after so many steps each whether training still gains; 0 takes all steps."
    )
    patience: Count | None = Field(None, description="Stop after so many measurements without a gain.")
    min_gain: Level | None = Field(None, description="What counts as a gain: a held-out loss lower by this share.")
    budget: str | None = Field(
        None,
        description="Cap each course of training, as 200steps, 90s or 10min. Time is not exact: what comes of it "
        "depends on the machine.",
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
    segment_frames: Length | None = Field(
        None, description="The most frames that are made at once; a longer clip is made in overlapping segments."
    )
    area: Share = Field(1.0, description="Work at this share of the model's frame area: cheaper, and less detail.")
    sampling_steps: Count | None = Field(None, description="Denoising steps, all from --strength on.")
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
    prompt: str = Field("", description="What the edited clip shows; auto asks the captioner.")
    source_prompt: str = Field("", description="What the source clip shows; auto asks the captioner.")
    captioner: str | None = Field(None, description="A Florence-2 or Qwen-VL model: a folder, or a Hub id.")
    margin: float | None = Field(None, description="Room round an automatic mask, as a share of its extent, each side.")
    tracker: str = Field("embedded", description="What makes an automatic mask: embedded, sam2, edgetam or sam3.")
    tracker_model: str | None = Field(None, description="Folder of that tracker's weights; embedded has none.")
    box: bool = Field(False, description="Turn each region of the mask into its box, grown a little.")
    dilate_px: Annotated[int, Field(ge=0, le=4096)] = Field(0, description="Grow the mask by so many pixels.")
    feather_px: Annotated[int, Field(ge=0, le=4096)] = Field(2, description="Soft border inside the mask, in pixels.")
    fit: bool = Field(False, description="Resize edited frames of another size to the clip's.")
    seed: Seed = Field(0, description="Decides the noise that generation starts from.")
    train_seed: Seed = Field(0, description="Decides everything random in training.")
    profile: bool = Field(False, description="Say where the time goes, in a table and in RUN/profile.json.")
    preview: bool = Field(True, description="Show a first look, in few steps, before a run that costs far more.")
    preview_every: Steps = Field(0, description="A look after every so many training or sampling steps; 0: none.")
    store: str | None = Field(
        None,
        description="Where LoRAs are kept for other runs: a folder, or none. By default what LORAEDIT_STORE says, "
        "else a folder in the user's cache.",
    )
    codec: Codec | None = Field(
        None,
        description="h264, h265, av1, prores, ffv1 or png; by default as the name of --out says.",
    )
    step_cache: Scale = Field(0.0, description="Skip blocks whose input changes less than this from step to step.")
    vram: str = Field(
        "auto",
        description="Fit into so much memory of the card, such as 24GB; auto asks the card (on a CPU: no limit).",
    )
    weights: WeightStore | None = Field(None, description="Keep frozen weights full, or as fp8 (less exact).")
    checkpointing: bool | None = Field(None, description="Compute blocks again for their gradients, to save memory.")
    offload_checkpoints: bool | None = Field(None, description="Keep what goes into the blocks in the host's memory.")
    offload_blocks: bool | None = Field(None, description="Keep the weights of the blocks in the host's memory.")
    offload_encoders: bool | None = Field(None, description="Keep the weights of the encoders in the host's memory.")
    tile_vae: bool | None = Field(None, description="Encode and decode in tiles.")
    attention: str | None = Field(None, description="An attention backend by diffusers' name, such as flash.")
    compile_blocks: bool = Field(False, description="Compile the model's blocks; pays on long runs.")
    device: str | None = Field(None, description="cpu, cuda, cuda:1, mps, xpu; by default the best there is.")

    def resolved(self, recipe: Recipe) -> EditSettings:
        """The same settings with every None that the recipe can answer filled in, and steps within the budget.

        Raises:
            InputError: the budget is not understood.
        """
        defaults = recipe.as_in_the_paper() if self.recipe == "paper" else recipe
        if self.distilled:
            defaults = defaults.model_copy(update={"sampling_steps": self.distilled, "guidance": 1.0})
        missing = {name: value for name, value in defaults.model_dump().items() if getattr(self, name) is None}
        settled = self.model_copy(update=missing)
        longer = settled.steps if settled.reference_steps is None else settled.reference_steps
        most, _ = parse_budget(self.budget)
        if most is not None:
            longer = min(longer or 0, most)
            settled = settled.model_copy(update={"steps": min(settled.steps or 0, most)})
        strength = settled.strength if settled.carries or self.strength is not None else 1.0
        return settled.model_copy(update={"reference_steps": longer, "strength": strength})

    @property
    def carries(self) -> bool:
        """Whether edited frames are shown inside the mask; else there is nothing to start from but noise."""
        return self.fill == "carry" and self.lora == "motion"

    @property
    def budget_s(self) -> float:
        """Seconds that a course of training may take; 0 is no limit."""
        return parse_budget(self.budget)[1]

    def reference_courses(self, references: int) -> list[int]:
        """The training steps that each of so many references adds; a later one has less left to learn.

        Call it on resolved settings.
        """
        return [ceil((self.reference_steps or 0) / (order + 1)) for order in range(references)]

    def training(self) -> TrainSettings:
        """The part that decides the LoRA; call it on resolved settings."""
        return TrainSettings.model_validate({name: getattr(self, name) for name in TrainSettings.model_fields})

    def sampling(self) -> SamplingSettings:
        """The part that decides the sampling; call it on resolved settings."""
        return SamplingSettings.model_validate({name: getattr(self, name) for name in SamplingSettings.model_fields})

    def resources(self, chosen: Resources) -> Resources:
        """What was chosen for the machine, with all that the user set himself."""
        own = {name: getattr(self, name) for name in Resources.model_fields if getattr(self, name) is not None}
        return chosen.model_copy(update=own)


def parse_budget(text: str | None) -> tuple[int | None, float]:
    """Of ``200steps``, ``90s`` or ``10min`` the steps, or None, and the seconds, or 0.

    Raises:
        InputError: it is neither.
    """
    if text is None:
        return None, 0.0
    match = re.fullmatch(r"(\d{1,6}(?:\.\d+)?) ?(steps|s|min|h)", text)
    if match is None or float(match[1]) <= 0 or (match[2] == "steps" and "." in match[1]):
        raise InputError(f"The budget '{text}' is not understood. Give steps or time, such as 200steps, 90s or 10min.")
    if match[2] == "steps":
        return int(match[1]), 0.0
    return None, float(match[1]) * {"s": 1, "min": 60, "h": 3600}[match[2]]


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
