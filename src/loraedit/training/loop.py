"""The training loop: draw a sample, noise its target, predict the velocity, step the LoRA.

Everything random in a step is drawn from ``(seed, step)`` alone, so a run that was killed and continues from its last
checkpoint ends with the same bytes as one that was not.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from loraedit.config import TrainSettings
from loraedit.families.base import Encoded, Expert, Family
from loraedit.flow import add_noise, flow_matching_loss
from loraedit.lora import attach, lora_parameters
from loraedit.training.state import TrainState, load_state, save_state

__all__ = ["OnLoss", "Phase", "train"]

OnLoss = Callable[[int, int, float], None]
"""Called after each step with (steps done, steps in all, loss)."""

BETAS = (0.9, 0.99)
WEIGHT_DECAY = 0.01
CLIP_NORM = 1.0
WARMUP_STEPS = 5
SAVE_EVERY_S = float(os.environ.get("LORAEDIT_SAVE_EVERY_S", "10"))
"""Seconds between two checkpoints; the result does not depend on it."""


@dataclass(frozen=True)
class Phase:
    """A stretch of training.

    Attributes:
        steps: how many steps it takes.
        samples: what it draws from; every one has a target.
        weights: how often each is drawn, relative to the others.
    """

    steps: int
    samples: Sequence[Encoded]
    weights: Sequence[float]


def train(
    family: Family,
    expert: Expert,
    transformer: nn.Module,
    phases: Sequence[Phase],
    settings: TrainSettings,
    checkpoint: Path,
    on_loss: OnLoss,
) -> list[float]:
    """Attach a LoRA to a frozen transformer and train it through the phases, from the checkpoint if there is one.

    Args:
        expert: which transformer it is; the noise levels trained on are the expert's own, above ``time_low``.
        phases: what to learn, in order.
        checkpoint: where the state is kept; the file stays after the last step, for whoever calls again.
        on_loss: told the loss after every step.

    Returns:
        The loss of every step.
    """
    device = next(transformer.parameters()).device
    attach(family, transformer, settings.rank, settings.seed)
    parameters = dict(lora_parameters(transformer))
    optimizer = torch.optim.AdamW(parameters.values(), settings.lr, BETAS, weight_decay=WEIGHT_DECAY)
    state = load_state(checkpoint, parameters, optimizer)
    schedule = [phase for phase in phases for _ in range(phase.steps)]
    on_device = {id(sample): sample.to(device) for phase in phases for sample in phase.samples}
    transformer.train()
    saved = time.monotonic()
    for step in range(state.step, len(schedule)):
        _set_rate(optimizer, settings.lr, step, len(schedule))
        sample = on_device[id(_draw(schedule[step], settings.seed, step))]
        loss = _step(family, expert, transformer, sample, optimizer, settings, step)
        state = TrainState(step + 1, [*state.losses, loss])
        on_loss(state.step, len(schedule), loss)
        if time.monotonic() - saved > SAVE_EVERY_S or state.step == len(schedule):
            save_state(checkpoint, state, parameters, optimizer)
            saved = time.monotonic()
    transformer.eval()
    return state.losses


def _step(
    family: Family,
    expert: Expert,
    transformer: nn.Module,
    sample: Encoded,
    optimizer: torch.optim.Optimizer,
    settings: TrainSettings,
    step: int,
) -> float:
    """One optimiser step on one sample."""
    assert sample.target is not None
    generator = torch.Generator().manual_seed(_seed(settings.seed, step, 1))
    low, high = max(expert.low, min(settings.time_low, expert.high)), expert.high
    level = low + (high - low) * float(torch.rand((), generator=generator))
    noise = torch.randn(sample.target.shape, generator=generator).to(sample.target.device)
    level_tensor = torch.tensor(level, device=noise.device)
    velocity = family.velocity(transformer, add_noise(sample.target, noise, level), level_tensor, sample)
    loss = flow_matching_loss(velocity, sample.target, noise)
    loss.backward()  # type: ignore[no-untyped-call]
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    torch.nn.utils.clip_grad_norm_(parameters, CLIP_NORM)
    optimizer.step()
    optimizer.zero_grad()
    return float(loss.detach())


def _draw(phase: Phase, seed: int, step: int) -> Encoded:
    """The sample of this step."""
    weights = np.asarray(phase.weights, float)
    rng = np.random.default_rng((seed, step))
    return phase.samples[int(rng.choice(len(weights), p=weights / weights.sum()))]


def _set_rate(optimizer: torch.optim.Optimizer, peak: float, step: int, steps: int) -> None:
    """A short warm-up, the peak, and a linear fall to a tenth over the last third."""
    rate = peak * min(1.0, (step + 1) / WARMUP_STEPS) * min(1.0, 0.1 + 0.9 * (steps - step) / (steps / 3))
    for group in optimizer.param_groups:
        group["lr"] = rate


def _seed(seed: int, step: int, purpose: int) -> int:
    """A 63-bit seed of its own for every step and purpose."""
    return int(np.random.SeedSequence((seed, step, purpose)).generate_state(1, np.uint64)[0] >> 1)
