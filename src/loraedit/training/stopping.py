"""When a LoRA has learnt what it can: a loss that no step trains on says so, or the time that it was given."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from math import ceil

import torch
from torch import Tensor, nn

from loraedit.diffusion.flow_matching import add_noise, flow_matching_loss
from loraedit.families.base import TIMESTEPS, Encoded, Expert, Family, batch
from loraedit.runtime.devices import training_precision
from loraedit.runtime.distributed import agreed
from loraedit.settings import TrainSettings
from loraedit.training.state import TrainState

__all__ = ["after_step", "held_out_loss", "last_step", "rate", "settles"]

LEVELS = 4
"""Noise levels at which the held-out loss is measured, spread evenly over those trained on."""
WARMUP_STEPS = 5
COOL_DOWN = 0.25
"""Once it has learnt, training goes on for this share of the steps done, while the learning rate falls."""
FALL = 2 / 3
"""The share of all steps after which the learning rate falls anyway; from there on nothing is stopped."""


@torch.no_grad()
def held_out_loss(
    family: Family,
    expert: Expert,
    transformer: nn.Module,
    sample: Encoded,
    settings: TrainSettings,
    device: torch.device,
) -> float:
    """The loss in a sample's edit zone alone, at fixed noise levels with fixed noise.

    Args:
        sample: with a target.
        device: of the transformer.
    """
    sample = sample.to(device)
    together, generator = batch([sample]), torch.Generator().manual_seed(settings.train_seed)
    data = together.target
    assert data is not None
    low, high = max(expert.low, settings.min_noise_level), expert.high
    edited = 1 - sample.keep(family.card.latent_channels)[None]
    losses: list[Tensor] = []
    for order in range(LEVELS):
        level = torch.full((1,), low + (high - low) * (order + 0.5) / LEVELS, device=data.device)
        noise = torch.randn(data.shape, generator=generator).to(data.device)
        with training_precision(data.device):
            noisy = add_noise(data, noise, level.view(-1, 1, 1, 1, 1))
            velocity = family.velocity(transformer, noisy, level * TIMESTEPS, together)
        losses.append(flow_matching_loss(velocity, data, noise, edited))
    return float(torch.stack(losses).mean())


def after_step(
    state: TrainState, settings: TrainSettings, loss: float, judged: Callable[[], float], began: float
) -> TrainState:
    """The state once a step is done.

    Args:
        loss: of the step.
        judged: measures the held-out loss, where it is time to.
        began: when the step did, by ``time.monotonic``.
    """
    state = replace(state, losses=[*state.losses, loss])
    if settings.check_every and state.step % settings.check_every == 0:
        state = replace(state, held_out=[*state.held_out, judged()])
    if settings.budget_s:
        state = replace(state, seconds=agreed(state.seconds + time.monotonic() - began))
    return replace(state, settled=state.step) if settles(state, settings) else state


def settles(state: TrainState, settings: TrainSettings) -> bool:
    """Whether it is time to cool down: nothing more is gained, or four fifths of the time are over."""
    if state.settled or state.step >= settings.steps * FALL:
        return False
    if settings.budget_s and state.seconds * (1 + COOL_DOWN) >= settings.budget_s:
        return True
    return bool(settings.check_every) and _gains_nothing(state.held_out, settings.patience, settings.min_gain)


def _gains_nothing(held_out: Sequence[float], patience: int, min_gain: float) -> bool:
    """Whether the last values, as many as there is patience for, all fail to be better by a share than the best."""
    if len(held_out) <= patience:
        return False
    return min(held_out[-patience:]) > (1 - min_gain) * min(held_out[:-patience])


def last_step(state: TrainState, settings: TrainSettings) -> int:
    """The steps after which training ends, as far as is known by now."""
    if settings.budget_s and state.seconds >= settings.budget_s:
        return state.step
    return min(settings.steps, state.settled + ceil(COOL_DOWN * state.settled)) if state.settled else settings.steps


def rate(state: TrainState, settings: TrainSettings) -> float:
    """The learning rate of the next step: a short warm-up, the peak, and a linear fall to a tenth at the end."""
    begins, end = settings.steps * FALL, settings.steps
    if state.settled:
        begins, end = state.settled, last_step(state, settings)
    left = (end - state.step) / max(end - begins, 1)
    return settings.lr * min(1.0, (state.step + 1) / WARMUP_STEPS) * min(1.0, 0.1 + 0.9 * left)
