"""Takes training steps as a run does, and measures them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from loraedit.families import open_family
from loraedit.families.base import Encoded
from loraedit.lora.adapter import attach
from loraedit.runtime.memory import checkpoint_bytes, weights_held
from loraedit.settings import Resources
from loraedit.training.loop import make_optimizer, place_for_training, take_step
from scripts.gpu_day.bench import Bench, now
from scripts.gpu_day.measuring import Peak
from scripts.gpu_day.random_weights import give_effect, random_sample, random_transformer

__all__ = ["Given", "Steps", "gradients_kept", "take_steps", "use_compiler"]

COMPILER = "inductor"
"""Torch's own."""


@dataclass(frozen=True)
class Given:
    """What the transformer was given in the first step: noisy latents ``[B, c, f, h, w]`` and timesteps ``[B]``."""

    latents: Tensor
    timesteps: Tensor


@dataclass(frozen=True)
class Steps:
    """What was measured.

    Attributes:
        first_s: time of the first step.
        step_s: mean time of the others.
        peak_bytes: the device's peak.
        host_bytes: swapped weights and checkpoints in the host's memory.
        gradients: all gradients of the first step, clipped.
        given: what the transformer was given then.
    """

    first_s: float
    step_s: float
    peak_bytes: int
    host_bytes: int
    gradients: NDArray[np.float32]
    given: Given


def take_steps(bench: Bench, resources: Resources, frames: int, steps: int, counted: bool = True) -> Steps:
    """Builds a transformer, attaches a LoRA, and takes ``1 + steps`` steps on one sample of noise.

    Args:
        bench: the model and the device.
        resources: the memory measures.
        frames: of the sample.
        steps: steps after the first.
        counted: see :class:`Peak`.
    """
    family, settings = open_family(bench.card, resources), bench.training
    transformer = random_transformer(bench, resources)
    attach(transformer, family.lora_targets("all"), settings.rank, seed=0)
    give_effect(transformer)
    place_for_training(family, transformer, bench.device)
    if resources.compile_blocks:
        use_compiler(bench, transformer)
    sample, given = random_sample(bench, frames, bench.scale.small), _recorded(family)
    optimizer = make_optimizer(transformer.train(), settings)
    gradients = gradients_kept(optimizer)
    losses: list[float] = []
    times = [now(bench.device)]
    with Peak(bench.device, transformer, counted) as peak:
        for _ in range(1 + steps):
            losses.append(take_step(family, family.experts[0], transformer, [sample], optimizer, settings, losses))
            times.append(now(bench.device))
    host = weights_held(transformer).host + checkpoint_bytes(transformer)
    step_s = (times[-1] - times[1]) / steps if steps else times[1] - times[0]
    return Steps(times[1] - times[0], step_s, peak.bytes, host, gradients[0], given[0])


def use_compiler(bench: Bench, transformer: Any) -> None:
    """Replaces the compiler of compiled blocks by that of the scale."""
    if bench.scale.backend != COMPILER:
        transformer.compile_repeated_blocks(fullgraph=True, backend=bench.scale.backend)


def gradients_kept(optimizer: torch.optim.Optimizer) -> list[NDArray[np.float32]]:
    """Returns a list that receives the gradients of the first step, flat, in memory that no meter counts."""
    kept: list[NDArray[np.float32]] = []

    def keep(*_: Any) -> None:
        if not kept:
            parameters = [each for group in optimizer.param_groups for each in group["params"]]
            kept.append(np.concatenate([each.grad.flatten().float().cpu().numpy() for each in parameters]))

    optimizer.register_step_pre_hook(keep)
    return kept


def _recorded(family: Any) -> list[Given]:
    """Returns a list that receives what the family gives to its transformer."""
    given: list[Given] = []
    velocity = family.velocity

    def recording(transformer: Any, latents: Tensor, timestep: Tensor, condition: Encoded) -> Any:
        if not given:
            given.append(Given(latents.detach().clone(), timestep.clone()))
        return velocity(transformer, latents, timestep, condition)

    family.velocity = recording
    return given
