"""The schedule of a sampling: its steps, their noise levels, and the experts that serve them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from loraedit.families.base import TIMESTEPS, Expert, Family
from loraedit.settings import ResolvedSettings, SamplingSettings

__all__ = ["Schedule", "expert_at", "experts_trained", "experts_used", "make_schedule"]


@dataclass(frozen=True)
class Schedule:
    """The steps of a sampling.

    Attributes:
        scheduler: a diffusers scheduler, set to begin with the first step.
        timesteps: the timestep of each step.
        levels: the noise level before each step, and 0 at the end; one more than there are steps.
    """

    scheduler: Any
    timesteps: list[Tensor]
    levels: list[float]

    def __len__(self) -> int:
        return len(self.timesteps)

    def step(self, index: int, latents: Tensor, velocity: Tensor) -> Tensor:
        """Returns the latents after a step, ``[c, f, h, w]``. Steps must be taken in order."""
        timestep = self.timesteps[index]
        after: Tensor = self.scheduler.step(velocity[None], timestep, latents[None], return_dict=False)[0][0]
        return after


def make_schedule(family: Family, sampling: SamplingSettings, shape: Sequence[int], device: torch.device) -> Schedule:
    """Returns the schedule of a sampling, from noise alone to the data."""
    scheduler = family.scheduler(sampling, sampling.sampling_steps, shape, device)
    scheduler.set_begin_index(0)
    timesteps = list(scheduler.timesteps)
    levels = [*(float(sigma) for sigma in scheduler.sigmas[: len(timesteps)]), 0.0]  # timesteps may be whole numbers
    return Schedule(scheduler, timesteps, levels)


def expert_at(family: Family, timestep: float) -> Expert:
    """Returns the expert that serves a timestep."""
    return next(expert for expert in family.experts if expert.low * TIMESTEPS <= timestep)


def experts_used(family: Family, sampling: SamplingSettings) -> tuple[Expert, ...]:
    """Returns the experts that a sampling uses, in this order."""
    if len(family.experts) == 1:
        return family.experts
    any_shape = (family.card.latent_channels, 1, 1, 1)  # no model with two experts has a schedule that depends on it
    timesteps = make_schedule(family, sampling, any_shape, torch.device("cpu")).timesteps
    return tuple(dict.fromkeys(expert_at(family, float(timestep)) for timestep in timesteps))


def experts_trained(family: Family, settings: ResolvedSettings) -> tuple[Expert, ...]:
    """Returns the experts that sampling uses and whose noise range overlaps the training range; at least one."""
    used = experts_used(family, settings.sampling())
    return tuple(expert for expert in used if settings.min_noise_level < expert.high)
