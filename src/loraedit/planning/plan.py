"""The plan of an edit: what it costs, where it fits, how long it takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

from loraedit.families import open_family
from loraedit.families.card import ModelCard
from loraedit.job.segments import TAUGHT_SEGMENTS
from loraedit.planning.cards import CARDS, EFFICIENCY, HOST_BANDWIDTH, GraphicsCard
from loraedit.planning.cost import Cost, Shape, lora_bytes, measure_cost
from loraedit.planning.fitting import MARGIN_BYTES, fit, fits
from loraedit.sampling.schedule import experts_trained
from loraedit.settings import PAPER, ResolvedSettings, Resources, SamplingSettings, TrainSettings
from loraedit.types import OnStep, Size, no_step
from loraedit.video.scaling import padded_length, working_size

__all__ = [
    "Plan",
    "Work",
    "make_plan",
    "reference_flops",
    "work_of",
]

FLOAT = 4


@dataclass(frozen=True)
class Work:
    """What an edit does, all samples of one shape.

    Attributes:
        shape: what the model sees.
        train: settings of the training; its steps count for one expert, references included.
        sampling: settings of the sampling.
        experts: transformers that are trained.
        samples: clips to encode.
        reference_samples: edited frames to train on.
        segments: how many times a clip of this length is generated.
        clip_frames: of the whole clip, or a few more.
        guided: whether a sampling step takes a second forward pass, without the prompt.
    """

    shape: Shape
    train: TrainSettings
    sampling: SamplingSettings
    experts: int = 1
    samples: int = 1
    reference_samples: int = 0
    segments: int = 1
    clip_frames: int = 0
    guided: bool = False

    @property
    def passes(self) -> int:
        """Forward passes of the sampling."""
        return self.segments * self.sampling.sampling_steps * (2 if self.guided else 1)


@dataclass(frozen=True)
class Plan:
    """See :func:`make_plan`."""

    model: str
    frame: Size
    work: Work
    tokens: int
    costs: dict[str, Cost]
    resources: Resources
    budget: int | None
    disk_bytes: int
    efficiency: float

    @property
    def total_flops(self) -> int:
        """Of the whole edit; references, being single frames, are counted as whole clips."""
        one = {name: cost.flops for name, cost in self.costs.items()}
        encodings = self.work.samples + self.work.reference_samples + self.work.segments
        encode = encodings * sum(one.get(name, 0) for name in ("text_encode", "image_encode"))
        latents = 2 * encodings * one["vae_encode"] + self.work.segments * one["vae_decode"]
        steps = self.work.train.steps * self.work.experts * one["train"]
        return encode + latents + steps + self.work.passes * one["sample"]

    @property
    def fits(self) -> bool:
        """Whether all phases leave the margin free; True without a budget."""
        return self.budget is None or fits(self.costs, self.budget)

    def seconds(self, card: GraphicsCard) -> float:
        """Estimated time on a card; what is brought in from the host comes on top of computing."""
        brought = 2 * self.work.train.steps * self.work.experts + self.work.passes  # blocks run twice in training
        transfer = self.costs["train"].host_bytes * brought / HOST_BANDWIDTH
        return self.total_flops / (card.tflops * 1e12 * self.efficiency) + transfer

    def holds(self, card: GraphicsCard) -> bool:
        """Whether the plan, as it is, fits a card."""
        costs = self.costs
        if card.is_host:
            costs = {
                name: replace(cost, weights_bytes=cost.weights_bytes + cost.host_bytes) for name, cost in costs.items()
            }
        return fits(costs, card.memory_gb * 10**9)

    def remedy(self) -> str:
        """What would make it fit, in a sentence; empty if it fits."""
        if self.budget is None or self.fits:
            return ""
        name, cost = max(self.costs.items(), key=lambda each: each[1].peak_bytes)
        over = (cost.peak_bytes + MARGIN_BYTES - self.budget) / 1e9
        return (
            f"The phase {name} needs {over:.2f} GB more than there is. "
            "Take fewer frames, a smaller --area such as 0.5, or a card with more memory."
        )

    def as_json(self) -> dict[str, Any]:
        """One JSON object."""
        return {
            "model": self.model,
            "frame": str(self.frame),
            "window": str(self.work.shape.size),
            "frames": self.work.shape.frames,
            "tokens": self.tokens,
            "train_steps": self.work.train.steps * self.work.experts,
            "sampling_forwards": self.work.passes,
            "train_step_flops": self.costs["train"].flops,
            "sample_step_flops": self.costs["sample"].flops,
            "phase_flops": {name: cost.flops for name, cost in self.costs.items()},
            "total_flops": self.total_flops,
            "peak_bytes": {name: cost.peak_bytes for name, cost in self.costs.items()},
            "weights_bytes": {name: cost.weights_bytes for name, cost in self.costs.items()},
            "host_bytes": {name: cost.host_bytes for name, cost in self.costs.items()},
            "vram_bytes": self.budget,
            "margin_bytes": MARGIN_BYTES,
            "fits": self.fits,
            "remedy": self.remedy(),
            "resources": self.resources.model_dump(),
            "disk_bytes": self.disk_bytes,
            "efficiency": self.efficiency,
            "cards": [self.on(each) for each in CARDS],
        }

    def on(self, card: GraphicsCard) -> dict[str, Any]:
        """What a card has, whether the plan fits it, and how long it takes there."""
        return {**asdict(card), "fits": self.holds(card), "seconds": self.seconds(card)}


def make_plan(
    card: ModelCard,
    model: str,
    frame: Size,
    work: Work,
    budget: int | None,
    asked: Callable[[Resources], Resources],
    efficiency: float = EFFICIENCY,
    on_step: OnStep = no_step,
) -> Plan:
    """Measure an edit, and choose how it fits.

    Args:
        model: what the user calls it.
        frame: the clip's size.
        budget: bytes of the device, or None for no limit.
        asked: puts what the user set himself into what was chosen, as :meth:`ResolvedSettings.resources` does.
        efficiency: share of a card's published speed that is reached.
        on_step: told (phases done, phases in all), again for each way that is tried.

    Returns:
        The plan; it may not fit.
    """

    def measure(resources: Resources) -> dict[str, Cost]:
        return measure_cost(card, work.shape, work.train, resources, on_step)

    usual = Resources(checkpointing=True)  # nobody trains a large model without
    resources = asked(usual) if budget is None else fit(measure, budget, asked)
    costs = measure(resources)
    disk = _disk_bytes(card, frame, work)
    return Plan(model, frame, work, work.shape.tokens(card), costs, resources, budget, disk, efficiency)


def work_of(
    card: ModelCard, settings: ResolvedSettings, window: Size, frames: list[int], area_px: int, references: int,
    clip_frames: int | None = None,
) -> Work:  # fmt: skip
    """What an edit does.

    Args:
        window: what the model sees of a frame, in pixels of the clip.
        frames: of each segment that is generated.
        area_px: to work at.
        references: edited frames besides the first.
        clip_frames: of the whole clip; those of the segments together if not given.
    """
    shape = Shape(padded_length(max(frames), card.frame_step), working_size(window, area_px, card.multiple_px))
    training = settings.training()
    sampling, steps, experts, samples = settings.sampling(), 0, 0, 0
    if settings.lora != "none":
        steps = training.steps + sum(settings.reference_courses(references))
        experts = len(experts_trained(open_family(card), settings))
        taught = min(len(frames), TAUGHT_SEGMENTS) * (1 + settings.carries)  # carried from one end and from both
        samples = taught + training.colour_variants - 1
    training = training.model_copy(update={"steps": steps})
    return Work(
        shape, training, sampling, experts, samples, references, len(frames),
        clip_frames or sum(frames), card.guided(sampling.guidance),
    )  # fmt: skip


def reference_flops(card: ModelCard, whole: Shape, on_step: OnStep = no_step) -> int:
    """Of training and sampling by LoRA-Edit's own recipe: the whole frame, with guidance, blocks computed again.

    Guidance takes two forward passes a sampling step, but one where the model reads it.
    """
    settings = TrainSettings(steps=PAPER.steps, rank=PAPER.rank, lr=PAPER.lr)
    costs = measure_cost(card, whole, settings, Resources(checkpointing=True), on_step)
    passes = PAPER.sampling_steps * (1 if card.embeds_guidance else 2)
    return len(card.experts) * PAPER.steps * costs["train"].flops + passes * costs["sample"].flops


def _disk_bytes(card: ModelCard, frame: Size, work: Work) -> int:
    """The most that a run folder holds.

    That is pictures as raw pixels, and in float32 latents, the velocities of one segment, LoRA and moments.
    """
    f, h, w = work.shape.latent(card)
    cells = f * h * w * FLOAT
    pictures = 4 * work.clip_frames * frame.height * frame.width * 3
    kept = (work.sampling.sampling_steps + work.segments) * card.latent_channels * cells
    encoded = (
        (work.samples + work.reference_samples + work.segments) * (2 * card.latent_channels + card.temporal) * cells
    )
    return pictures + kept + encoded + work.experts * 4 * lora_bytes(card, work.train)
