"""The plan of an edit: its cost, the GPUs that it fits, and the time it takes there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from typing import Any, Literal

import torch

from loraedit.families.card import ModelCard
from loraedit.families.kept_weights import kept_bytes
from loraedit.families.registry import block_count
from loraedit.phases import PLAN_LABELS
from loraedit.planning.advice import host_advice
from loraedit.planning.cost import lora_bytes, measure_cost
from loraedit.planning.fitting import MARGIN_BYTES, Fitting, Limits, fits
from loraedit.planning.gpus import GPUS, HOST_BANDWIDTH, Efficiency, Gpu
from loraedit.planning.host import HostPlan, process_bytes
from loraedit.planning.phase_cost import Cost
from loraedit.planning.progress import GrowingCount
from loraedit.planning.work import Work
from loraedit.runtime.devices import converts_weights
from loraedit.settings import Resources, WeightStore
from loraedit.types import OnStep, Size, no_step

__all__ = ["Plan", "make_plan"]

CPU = torch.device("cpu")
FLOAT = 4

LONGEST_ON_HOST_S = 12 * 3600
"""A processor that needs longer for an edit is called too slow."""


@dataclass(frozen=True)
class Plan:
    """See :func:`make_plan`."""

    model: str
    frame: Size
    work: Work
    tokens: int
    costs: dict[str, Cost]
    host_bytes: dict[str, int]
    resources: Resources
    limits: Limits | None
    disk_bytes: int
    host_advice: str
    efficiency: float | None = None

    @property
    def total_flops(self) -> int:
        """Returns the operations of the whole edit. Each text, picture and clip is encoded once."""
        one, found = {name: cost.flops for name, cost in self.costs.items()}, self.work.encodings
        encode = (len(found.texts) + found.texts_with_picture) * one["text_encode"]
        encode += found.pictures * one.get("image_encode", 0)
        frames = found.clips * self.work.shape.frames + found.frames
        latents = frames * one["vae_encode"] // self.work.shape.frames + found.decoded * one["vae_decode"]
        return encode + latents + self.work.train_steps * one["train"] + self.work.passes * one["sample"]

    @property
    def fits(self) -> bool:
        """Returns whether all phases leave the margin free and keep within the host's memory; True without limits."""
        return self.limits is None or (fits(self.costs, self.limits.device) and not self._host_lacks())

    @property
    def host_peak_bytes(self) -> int:
        """Returns the peak of the host's memory."""
        return max(self.host_bytes.values())

    @property
    def pinned_bytes(self) -> int:
        """Returns how much of the host's memory is pinned at most: swapped blocks and checkpoints."""
        return max(cost.host_bytes + cost.checkpoint_bytes for cost in self.costs.values())

    def _host_lacks(self) -> int:
        """Returns the bytes by which the host's memory is too small."""
        limit = None if self.limits is None else self.limits.host
        return 0 if limit is None else max(self.host_peak_bytes - limit, 0)

    def seconds(self, gpu: Gpu) -> float:
        """Estimates the time on a GPU. Blocks are copied while others compute; checkpoints are not."""
        speed = gpu.tflops * 1e12 * self.efficiency_on(gpu).share
        train, sample = self.costs["train"], self.costs["sample"]
        copies = 2 * train.host_bytes / HOST_BANDWIDTH  # blocks compute twice in training
        step = max(train.flops / speed, copies) + 2 * train.checkpoint_bytes / HOST_BANDWIDTH
        forward = max(sample.flops / speed, sample.host_bytes / HOST_BANDWIDTH)
        steps, passes = self.work.train_steps, self.work.passes
        others = self.total_flops - steps * train.flops - passes * sample.flops
        return others / speed + steps * step + passes * forward

    def efficiency_on(self, gpu: Gpu) -> Efficiency:
        """Returns the share of a GPU's speed that the times rest on: the user's, or else the GPU's."""
        return gpu.efficiency if self.efficiency is None else Efficiency(self.efficiency, "given")

    def fits_on(self, gpu: Gpu) -> bool:
        """Returns whether the plan fits a GPU without further measures."""
        if gpu.is_host:
            needs = (self.host_bytes[name] + cost.working_bytes for name, cost in self.costs.items())
            return max(needs) <= gpu.memory_gb * 10**9
        return fits(self.costs, gpu.memory_gb * 10**9)

    def runs_on(self, gpu: Gpu) -> Literal["yes", "no", "too slow"]:
        """Returns whether the edit can be run on a GPU, or on a processor in its place."""
        if not self.fits_on(gpu):
            return "no"
        return "too slow" if gpu.is_host and self.seconds(gpu) > LONGEST_ON_HOST_S else "yes"

    def remedy(self) -> str:
        """Returns a sentence that says what would make the edit fit; empty if it fits."""
        if self.limits is None or self.fits:
            return ""
        name, cost = max(self.costs.items(), key=lambda item: item[1].peak_bytes)
        over = (cost.peak_bytes + MARGIN_BYTES - self.limits.device) / 1e9
        if over > 0:
            return (
                f"{PLAN_LABELS[name]} takes {cost.peak_bytes / 1e9:.2f} GB and {MARGIN_BYTES / 1e9:g} GB to spare, "
                f"{over:.2f} GB more memory than the device has. "
                "Use fewer frames, a smaller --area such as 0.5, or a GPU with more memory."
            )
        name = max(self.host_bytes, key=lambda phase: self.host_bytes[phase])
        return (
            f"{PLAN_LABELS[name]} needs {self._host_lacks() / 1e9:.2f} GB more host memory than is available. "
            f"Close other programs, or {self.host_advice}."
        )

    def as_json(self) -> dict[str, Any]:
        """Returns the plan as a JSON object."""
        return {
            "model": self.model,
            "frame": str(self.frame),
            "window": str(self.work.shape.size),
            "frames": self.work.shape.frames,
            "tokens": self.tokens,
            "segments": self.work.segments,
            "train_steps": self.work.train_steps,
            "may_stop_early": self.work.may_stop_early,
            "sampling_forwards": self.work.passes,
            "train_step_flops": self.costs["train"].flops,
            "sample_step_flops": self.costs["sample"].flops,
            "phase_flops": {name: cost.flops for name, cost in self.costs.items()},
            "total_flops": self.total_flops,
            "peak_bytes": {name: cost.peak_bytes for name, cost in self.costs.items()},
            "weights_bytes": {name: cost.weights_bytes for name, cost in self.costs.items()},
            "swapped_bytes": {name: cost.host_bytes for name, cost in self.costs.items()},
            "checkpoint_bytes": {name: cost.checkpoint_bytes for name, cost in self.costs.items()},
            "host_bytes": self.host_bytes,
            "host_peak_bytes": self.host_peak_bytes,
            "pinned_bytes": self.pinned_bytes,
            "host_limit_bytes": self.limits.host if self.limits else None,
            "vram_bytes": self.limits.device if self.limits else None,
            "margin_bytes": MARGIN_BYTES,
            "fits": self.fits,
            "remedy": self.remedy(),
            "resources": self.resources.model_dump(),
            "disk_bytes": self.disk_bytes,
            "gpus": [self.on(gpu) for gpu in GPUS],
        }

    def on(self, gpu: Gpu) -> dict[str, Any]:
        """Returns a GPU's figures, whether the plan fits and runs there, and the time it takes, as JSON values."""
        figures = {"fits": self.fits_on(gpu), "runs": self.runs_on(gpu), "seconds": self.seconds(gpu)}
        efficiency = self.efficiency_on(gpu)
        return {**asdict(gpu), **figures, "efficiency": efficiency.share, "efficiency_source": efficiency.source}


def make_plan(
    card: ModelCard,
    model: str,
    frame: Size,
    work: Work,
    limits: Limits | None,
    apply_user: Callable[[Resources], Resources],
    efficiency: float | None = None,
    on_step: OnStep = no_step,
    *,
    on_cpu: bool = False,
) -> Plan:
    """Measures an edit and chooses its memory measures.

    Args:
        model: the user's name for the model.
        frame: the clip's size.
        limits: memory that the edit may take; None is no limit.
        apply_user: overrides chosen resources by the user's own settings, such as
            :meth:`ResolvedSettings.resources`.
        efficiency: share of every GPU's published speed that is reached; None takes each GPU's own.
        on_step: called with (phases measured, phases in all as far as they are known) before each phase, and at the
            end. Every choice that is measured adds its phases.
        on_cpu: plan a run on this machine's processor instead of one on an accelerator.

    Returns:
        The plan; it may not fit.
    """
    count, known = GrowingCount(on_step), dict[Resources, dict[str, Cost]]()

    def measure(resources: Resources) -> dict[str, Cost]:
        if resources not in known:
            steps = count.next_part()
            known[resources] = measure_cost(
                card, work.shape, work.train, resources, steps, on_cpu=on_cpu, uses=work.uses
            )
        return known[resources]

    def host_bytes(resources: Resources, costs: Mapping[str, Cost]) -> dict[str, int]:
        base = max(process_bytes() - kept_bytes(), 0)  # what a batch keeps is what this job uses again
        return HostPlan(work.shape, resources.reload_weights, on_cpu, converts_weights(CPU), base).bytes(costs)

    def host_peak(resources: Resources, costs: Mapping[str, Cost]) -> int:
        return max(host_bytes(resources, costs).values())

    usual = Resources(checkpointing=True)  # nobody trains a large model without it
    stores = _stores(card, work.uses.experts)
    fitting = Fitting(measure, host_peak, apply_user, block_count(card), stores, work.uses.previews)
    resources = apply_user(usual) if limits is None else fitting.choose(limits)
    costs = measure(resources)
    count.end()
    return Plan(
        model, frame, work, work.shape.tokens(card), costs, host_bytes(resources, costs), resources, limits,
        _disk_bytes(card, frame, work), host_advice(card, resources.weights), efficiency,
    )  # fmt: skip


def _stores(card: ModelCard, experts: Sequence[str]) -> tuple[WeightStore, ...]:
    """Returns how the weights of the experts may be stored, in order of preference, if any is in full precision.

    Int8 is closer to the full weights than fp8, in as many bytes.
    """
    if all(card.kinds(expert) for expert in experts):
        return ("auto",)
    return ("auto", "int8", "nf4") if find_spec("bitsandbytes") else ("auto", "int8")


def _disk_bytes(card: ModelCard, frame: Size, work: Work) -> int:
    """Returns the largest size of a run folder in bytes.

    It holds pictures, counted as raw pixels, and in float32 latents, the velocities of one segment, LoRAs and the
    optimiser's moments.
    """
    f, h, w = work.shape.latent(card)
    cells = f * h * w * FLOAT
    pictures = 4 * work.clip_frames * frame.height * frame.width * 3
    kept = (work.sampling.sampling_steps + work.segments) * card.latent_channels * cells
    encoded = (work.samples + work.reference_samples + work.segments) * 2 * card.latent_channels * cells
    return pictures + kept + encoded + len(work.uses.trained) * 4 * lora_bytes(card, work.shape, work.train)
