"""The training loop: draw a sample, noise its target, predict the velocity, step the LoRA.

Everything random in a step is drawn from ``(seed, step)`` alone, so a run that was killed and continues from its last
checkpoint ends with the same bytes as one that was not.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from loraedit.diffusion.flow_matching import add_noise, flow_matching_loss
from loraedit.errors import InputError
from loraedit.families.base import TIMESTEPS, Encoded, Expert, Family, batch, tokens_of
from loraedit.lora.adapter import as_autocast, attach, load_lora, lora_parameters
from loraedit.runtime.devices import autocasts, training_attention, training_precision
from loraedit.runtime.distributed import add_up, split_tokens
from loraedit.runtime.memory import checkpoints_kept, place
from loraedit.settings import TrainSettings
from loraedit.training.state import load_state, save_state
from loraedit.training.stopping import after_step, held_out_loss, last_step, rate

__all__ = ["OnLoss", "Stage", "train"]

OnLoss = Callable[[int, int, float], None]
"""Called after each step with (steps done, steps in all, loss)."""

BETAS = (0.9, 0.99)
WEIGHT_DECAY = 0.01
CLIP_NORM = 1.0
SAVE_COST = 0.05
"""Share of the time that may go into saving checkpoints."""
SAVE_GAP_S = 5.0
"""Work of fewer seconds is done again rather than saved."""
EXPLODED = 1000.0
"""A loss of so many times the median of all before is that of a training that has come apart."""
SETTLED_STEPS = 5
"""So many losses have to be known before their median says something."""


@dataclass(frozen=True)
class Stage:
    """A stretch of training.

    Attributes:
        samples: what it draws from; every one has a target.
        weights: how often each is drawn, relative to the others.
        start: LoRA file to go on from; None starts a fresh one.
        judged: index of the sample whose held-out loss says when to stop.
    """

    samples: Sequence[Encoded]
    weights: Sequence[float]
    start: Path | None = None
    judged: int = 0


def train(
    family: Family,
    expert: Expert,
    transformer: nn.Module,
    stage: Stage,
    settings: TrainSettings,
    checkpoint: Path,
    on_loss: OnLoss = lambda *_: None,
    device: torch.device | None = None,
) -> list[float]:
    """Attach a LoRA to a frozen transformer, place it on a device and train it through a stage.

    It goes on from the checkpoint if there is one. It ends after ``settings.steps``, or sooner: once the held-out loss
    gains nothing any more, or the time is over (:mod:`loraedit.training.stopping`).

    Args:
        expert: which transformer it is; the noise levels trained on are the expert's own, above ``min_noise_level``.
        stage: what to learn.
        checkpoint: where the state is kept; the file stays after the last step, for whoever calls again.
        device: where to train; None is where the transformer is.
        on_loss: told the loss after every step.

    Returns:
        The loss of every step.

    Raises:
        InputError: loss or gradient are no longer numbers, or the loss has exploded. The checkpoint is then of the
            last good step.
    """
    attach(transformer, family.lora_targets(settings.lora_targets), settings.rank, settings.train_seed)
    if stage.start is not None:
        load_lora(stage.start, family, transformer)
    device = device or next(transformer.parameters()).device
    if device.type == "cpu" and autocasts(device):
        as_autocast(transformer)
    place(transformer, family.resources, device)
    if family.splits_tokens:
        split_tokens(transformer, (tokens_of(family.card, sample.condition.shape[1:]) for sample in stage.samples))
    parameters = dict(lora_parameters(transformer))
    optimizer = make_optimizer(transformer, settings)
    state = load_state(checkpoint, parameters, optimizer)
    judged = partial(held_out_loss, family, expert, transformer, stage.samples[stage.judged], settings, device)
    transformer.train()
    unsaved, cost = 0.0, 0.0
    while state.step < last_step(state, settings):
        began = time.monotonic()
        for group in optimizer.param_groups:
            group["lr"] = rate(state, settings)
        samples = [sample.to(device) for sample in _draw(stage, settings, state.step)]
        try:
            loss = _step(family, expert, transformer, samples, optimizer, settings, state.losses)
        except InputError:
            if state.losses:
                save_state(checkpoint, state, parameters, optimizer)
            raise
        state = after_step(state, settings, loss, judged, began)
        unsaved += time.monotonic() - began
        end = last_step(state, settings)
        on_loss(state.step, end, loss)
        if _worth_saving(unsaved, cost) or state.step >= end:
            start = time.monotonic()
            save_state(checkpoint, state, parameters, optimizer)
            unsaved, cost = 0.0, time.monotonic() - start
    if settings.steps == 0:
        save_state(checkpoint, state, {}, optimizer)
    transformer.eval()
    return state.losses


def _worth_saving(seconds: float, cost: float) -> bool:
    """Whether the work of so many seconds is, if saving takes ``cost`` seconds."""
    return seconds > max(SAVE_GAP_S, cost / SAVE_COST)


def make_optimizer(transformer: nn.Module, settings: TrainSettings) -> torch.optim.Optimizer:
    """AdamW for the LoRA of a transformer."""
    parameters = [parameter for _, parameter in lora_parameters(transformer)]
    return torch.optim.AdamW(parameters, settings.lr, BETAS, weight_decay=WEIGHT_DECAY, fused=True)


def _step(
    family: Family,
    expert: Expert,
    transformer: nn.Module,
    samples: Sequence[Encoded],
    optimizer: torch.optim.Optimizer,
    settings: TrainSettings,
    losses: Sequence[float],
) -> float:
    """One optimiser step after those of the losses; samples of one shape go through the model together.

    Raises:
        InputError: it would spoil the LoRA; nothing has been changed.
    """
    step = len(losses)
    generator = torch.Generator().manual_seed(_seed(settings.train_seed, step))
    loss = 0.0
    for group in _by_shape(samples):
        part = _loss(family, expert, transformer, group, settings, generator) * (len(group) / len(samples))
        with training_attention(part.device):
            part.backward()  # type: ignore[no-untyped-call]
        loss += float(part.detach())
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    add_up(parameters, transformer)
    norm = torch.nn.utils.clip_grad_norm_(parameters, CLIP_NORM)
    _check_sound(loss, float(norm), losses, settings.lr)
    optimizer.step()
    optimizer.zero_grad()
    return loss


def _check_sound(loss: float, gradient: float, losses: Sequence[float], rate: float) -> None:
    """A step may be taken with this loss and norm of the gradient, after those losses."""
    advice = f"Lower --lr (it is {rate:g}; try {rate / 3:.0e}) and run again."
    if not (math.isfinite(loss) and math.isfinite(gradient)):
        what = "gradient" if math.isfinite(loss) else "loss"
        raise InputError(f"The training {what} is no longer a number after {len(losses)} steps. {advice}")
    if len(losses) >= SETTLED_STEPS and loss > EXPLODED * float(np.median(losses)) > 0:
        raise InputError(
            f"The training loss has exploded after {len(losses)} steps: {loss:.3g}, {np.median(losses):.3g} being "
            f"usual. {advice}"
        )


def _loss(
    family: Family,
    expert: Expert,
    transformer: nn.Module,
    samples: Sequence[Encoded],
    settings: TrainSettings,
    generator: torch.Generator,
) -> Tensor:
    """The flow-matching loss of samples of one shape, each at a noise level of its own."""
    together = batch(samples)
    data = together.target
    assert data is not None
    low, high = max(expert.low, settings.min_noise_level), expert.high
    levels = (low + (high - low) * torch.rand(len(samples), generator=generator)).to(data.device)
    noise = torch.randn(data.shape, generator=generator).to(data.device)
    noisy = add_noise(data, noise, levels.view(-1, 1, 1, 1, 1))
    with training_precision(data.device), checkpoints_kept(family.resources, data.device):
        velocity = family.velocity(transformer, noisy, levels * TIMESTEPS, together)
    keep = torch.stack([sample.keep(family.card.latent_channels) for sample in samples])
    weight = 1 + (settings.edit_weight - 1) * (1 - keep)
    if family.card.mask == "tokens":  # a kept token sees no noise, so there is none to learn from it
        weight = 1 - keep
    return flow_matching_loss(velocity, data, noise, weight)


def _by_shape(samples: Sequence[Encoded]) -> Iterator[list[Encoded]]:
    """The samples in groups that can be stacked."""
    groups: dict[tuple[torch.Size, ...], list[Encoded]] = {}
    for sample in samples:
        shapes = tuple(value.shape for value in sample.tensors().values())
        groups.setdefault(shapes, []).append(sample)
    yield from groups.values()


def _draw(stage: Stage, settings: TrainSettings, step: int) -> list[Encoded]:
    """The samples of this step, by their weights."""
    shares = np.asarray(stage.weights, float)
    rng = np.random.default_rng((settings.train_seed, step))
    return [stage.samples[index] for index in rng.choice(len(shares), settings.batch_size, p=shares / shares.sum())]


def _seed(seed: int, step: int) -> int:
    """A 63-bit seed of its own for every step."""
    return int(np.random.SeedSequence((seed, step, 1)).generate_state(1, np.uint64)[0] >> 1)
