"""The schedule of a sampling: its steps, their noise levels, and the experts that serve them."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from loraedit.errors import InputError
from loraedit.families.base import TIMESTEPS, Expert, Family
from loraedit.settings import ResolvedSettings, SamplingSettings

__all__ = ["Schedule", "expert_at", "experts_trained", "experts_used", "make_schedule"]


@dataclass(frozen=True)
class Schedule:
    """The steps of a sampling.

    Attributes:
        scheduler: the checkpoint's scheduler, set to begin with the first step.
        timesteps: the timestep of each step.
        levels: the noise level before each step, and 0 at the end; one more than there are steps.
        from_noise: True if the first step starts from noise alone.
    """

    scheduler: Any
    timesteps: list[Tensor]
    levels: list[float]
    from_noise: bool

    def __len__(self) -> int:
        return len(self.timesteps)

    def step(self, index: int, latents: Tensor, velocity: Tensor) -> Tensor:
        """Returns the latents after a step, ``[c, f, h, w]``. Steps must be taken in order."""
        timestep = self.timesteps[index]
        after: Tensor = self.scheduler.step(velocity[None], timestep, latents[None], return_dict=False)[0][0]
        return after


def make_schedule(family: Family, sampling: SamplingSettings, shape: Sequence[int], device: torch.device) -> Schedule:
    """Returns the last ``sampling_steps`` steps of the shortest schedule that has so many at or below the strength.

    A single step always starts from noise alone. If not even a schedule of ``TIMESTEPS`` steps has enough of them, as
    with a tiny strength, the steps that it has are taken.
    """
    steps = sampling.sampling_steps

    def scheduler_of(total: int) -> Any:
        return family.scheduler(sampling, total, shape, device)

    def steps_below(scheduler: Any) -> int:
        return sum(float(timestep) / TIMESTEPS <= sampling.strength for timestep in scheduler.timesteps)

    if sampling.strength == 1 or steps == 1:
        scheduler, first = scheduler_of(steps), 0
    else:
        totals = range(steps, max(steps, TIMESTEPS))
        total = steps + bisect_left(totals, steps, key=lambda total: steps_below(scheduler_of(total)))
        scheduler = scheduler_of(total)
        first = total - max(1, min(steps, steps_below(scheduler)))
    scheduler.set_begin_index(first)
    timesteps = list(scheduler.timesteps[first:])
    levels = [*(float(timestep) / TIMESTEPS for timestep in timesteps), 0.0]
    return Schedule(scheduler, timesteps, levels, from_noise=first == 0)


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
    """Returns the experts that sampling uses and whose noise range overlaps the training range.

    Raises:
        InputError: there are none.
    """
    low = settings.min_noise_level
    trained = tuple(expert for expert in experts_used(family, settings.sampling()) if low < expert.high)
    if not trained:
        raise InputError(
            f"Sampling uses no noise level above {low:g}, so there is nothing to train. "
            "Lower --min-noise-level or raise --strength."
        )
    return trained
