"""Early stopping of a training: by a held-out loss that stops improving, or by a time limit."""

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

__all__ = ["after_step", "held_out_loss", "last_step", "noise_range", "rate", "settles"]

LEVELS = 4
"""The number of noise levels at which the held-out loss is measured, spread evenly over those trained on."""
WARMUP_STEPS = 5
COOL_DOWN = 0.25
"""Once the loss stops improving, training continues for this share of the steps done, with a falling learning rate."""
FALL = 2 / 3
"""The share of all steps after which a falling learning rate falls. From there on, training is not stopped early."""


def noise_range(expert: Expert, settings: TrainSettings) -> tuple[float, float]:
    """Returns the lowest and the highest noise level that an expert is trained on."""
    return max(expert.low, settings.min_noise_level), expert.high


@torch.no_grad()
def held_out_loss(
    family: Family,
    expert: Expert,
    transformer: nn.Module,
    samples: Sequence[Encoded],
    settings: TrainSettings,
    device: torch.device,
) -> float:
    """Measures the mean loss in the edit zones of samples, at fixed noise levels with fixed noise.

    Args:
        family: the model.
        expert: which of its transformers is measured.
        transformer: that transformer, on the device.
        samples: samples with a target.
        settings: how the LoRA is trained.
        device: the device of the transformer.
    """
    losses = [_edit_zone_loss(family, expert, transformer, sample.to(device), settings) for sample in samples]
    return sum(losses) / len(losses)


def _edit_zone_loss(
    family: Family, expert: Expert, transformer: nn.Module, sample: Encoded, settings: TrainSettings
) -> float:
    """Measures the loss of one sample, which is on the device of the transformer."""
    batched, generator = batch([sample]), torch.Generator().manual_seed(settings.train_seed)
    data = batched.target
    assert data is not None
    low, high = noise_range(expert, settings)
    edited = 1 - sample.keep(family.card.latent_channels)[None]
    losses: list[Tensor] = []
    for order in range(LEVELS):
        level = torch.full((1,), low + (high - low) * (order + 0.5) / LEVELS, device=data.device)
        noise = torch.randn(data.shape, generator=generator).to(data.device)
        with training_precision(data.device):
            noisy = add_noise(data, noise, level.view(-1, 1, 1, 1, 1))
            velocity = family.velocity(transformer, noisy, level * TIMESTEPS, batched)
        losses.append(flow_matching_loss(velocity, data, noise, edited))
    return float(torch.stack(losses).mean())


def after_step(
    state: TrainState, settings: TrainSettings, loss: float, judge: Callable[[], float], began: float
) -> TrainState:
    """Returns the state after a step.

    Args:
        state: the state before the step.
        settings: how the LoRA is trained.
        loss: the loss of the step.
        judge: measures the held-out loss; called only when a measurement is due.
        began: when the step began, by ``time.monotonic``.
    """
    state = replace(state, losses=[*state.losses, loss])
    if settings.check_every and state.step % settings.check_every == 0:
        state = replace(state, held_out=[*state.held_out, judge()])
    if settings.budget_s:
        state = replace(state, seconds=agreed(state.seconds + time.monotonic() - began))
    return replace(state, settled=state.step) if settles(state, settings) else state


def settles(state: TrainState, settings: TrainSettings) -> bool:
    """Returns True if it is time to cool down: the loss stopped improving, or four fifths of the time are over."""
    if state.settled or state.step >= settings.steps * (FALL if settings.lr_schedule == "falling" else 1):
        return False
    if settings.budget_s and state.seconds * (1 + COOL_DOWN) >= settings.budget_s:
        return True
    return bool(settings.check_every) and _gains_nothing(state.held_out, settings.patience, settings.min_gain)


def _gains_nothing(held_out: Sequence[float], patience: int, min_gain: float) -> bool:
    """Returns True if none of the last ``patience`` values improves on the best before by the share ``min_gain``."""
    if len(held_out) <= patience:
        return False
    return min(held_out[-patience:]) > (1 - min_gain) * min(held_out[:-patience])


def last_step(state: TrainState, settings: TrainSettings) -> int:
    """Returns the number of steps after which training ends, as far as the state tells."""
    if settings.budget_s and state.seconds >= settings.budget_s:
        return state.step
    return min(settings.steps, state.settled + ceil(COOL_DOWN * state.settled)) if state.settled else settings.steps


def rate(state: TrainState, settings: TrainSettings) -> float:
    """Returns the learning rate of the next step.

    A constant rate is the settings' own. A falling one has a short warm-up, then that rate, then a linear fall to a
    tenth of it. Training that was stopped early ends with such a fall too.
    """
    if settings.lr_schedule == "constant" and not state.settled:
        return settings.lr
    begins, end = settings.steps * FALL, settings.steps
    if state.settled:
        begins, end = state.settled, last_step(state, settings)
    left = (end - state.step) / max(end - begins, 1)
    warmed = min(1.0, (state.step + 1) / WARMUP_STEPS) if settings.lr_schedule == "falling" else 1.0
    return settings.lr * warmed * min(1.0, 0.1 + 0.9 * left)
