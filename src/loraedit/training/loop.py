"""The training loop: draw samples, add noise to their targets, predict the velocity, step the LoRA.

All randomness of a step comes from ``(seed, step)``. A run that was killed and continues from its last checkpoint
therefore ends with the same bytes as one that was not.
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
from loraedit.runtime.devices import converts_weights, training_attention, training_precision
from loraedit.runtime.distributed import add_up, split_tokens
from loraedit.runtime.memory import checkpoints_kept, place
from loraedit.settings import TrainSettings
from loraedit.training.state import StateFile
from loraedit.training.stopping import after_step, held_out_loss, last_step, noise_range, rate

__all__ = ["OnLoss", "Stage", "make_optimizer", "place_for_training", "take_step", "train"]

OnLoss = Callable[[int, int, float], None]
"""Called after each step with (steps done, steps in all, loss)."""

BETAS = (0.9, 0.99)
WEIGHT_DECAY = 0.01
CLIP_NORM = 1.0
EXPLODED = 1000.0
"""A loss above this multiple of the median of all before means that the training has diverged."""
SETTLED_STEPS = 5
"""The number of losses from which on their median is meaningful."""


@dataclass(frozen=True)
class Stage:
    """The samples of a stretch of training.

    Attributes:
        samples: encoded samples; each has a target.
        repeats: how often each sample comes in an epoch.
        start: LoRA file to continue from; None starts a fresh LoRA.
        judged: indices of the samples whose mean held-out loss decides when to stop.
    """

    samples: Sequence[Encoded]
    repeats: Sequence[int]
    start: Path | None = None
    judged: Sequence[int] = (0,)


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
    """Attaches a LoRA to a frozen transformer, places both on a device, and trains the LoRA on a stage.

    Continues from the checkpoint if there is one. Training ends after ``settings.steps``, or earlier when the held-out
    loss stops improving or the time is over (:mod:`loraedit.training.stopping`).

    Args:
        family: the model.
        expert: which of its transformers is trained. It is trained on its own noise levels above ``min_noise_level``.
        transformer: that transformer.
        stage: the samples to train on.
        settings: how to train.
        checkpoint: file of the training state. It stays after the last step, and a later call continues from it.
        on_loss: called after every step.
        device: where to train; None is where the transformer is.

    Returns:
        The loss of every step.

    Raises:
        InputError: loss or gradient are not finite, or the loss has exploded. The checkpoint then has the last good
            step.
    """
    device = device or next(transformer.parameters()).device
    _attach_and_place(family, transformer, stage, settings, device)
    optimizer = make_optimizer(transformer, settings)
    state_file = StateFile(checkpoint, dict(lora_parameters(transformer)), optimizer)
    judged = [stage.samples[index] for index in stage.judged]
    judge = partial(held_out_loss, family, expert, transformer, judged, settings, device)

    state = state_file.load()
    transformer.train()
    while state.step < last_step(state, settings):
        began = time.monotonic()
        _set_rate(optimizer, rate(state, settings))
        samples = [sample.to(device) for sample in _draw(stage, settings, state.step)]
        try:
            loss = take_step(family, expert, transformer, samples, optimizer, settings, state.losses)
        except InputError:
            if state.losses:
                state_file.save(state)
            raise
        state = after_step(state, settings, loss, judge, began)
        seconds, end = time.monotonic() - began, last_step(state, settings)
        on_loss(state.step, end, loss)
        state_file.save_if_due(state, seconds, last=state.step >= end)
    if settings.steps == 0:
        state_file.save(state)
    transformer.eval()
    return state.losses


def make_optimizer(transformer: nn.Module, settings: TrainSettings) -> torch.optim.Optimizer:
    """Returns AdamW for the LoRA of a transformer."""
    parameters = [parameter for _, parameter in lora_parameters(transformer)]
    return torch.optim.AdamW(parameters, settings.lr, BETAS, weight_decay=WEIGHT_DECAY, fused=True)


def place_for_training(family: Family, transformer: nn.Module, device: torch.device) -> None:
    """Brings a transformer with its LoRA to the device, in the precision of the training, in place."""
    if converts_weights(device):
        as_autocast(transformer)
    place(transformer, family.resources, device, family.resources.training_attention)


def _attach_and_place(
    family: Family, transformer: nn.Module, stage: Stage, settings: TrainSettings, device: torch.device
) -> None:
    """Attaches the stage's LoRA, or a fresh one, and brings the transformer to the device."""
    attach(transformer, family.lora_targets(settings.lora_targets), settings.rank, settings.train_seed)
    if stage.start is not None:
        load_lora(stage.start, family, transformer)
    place_for_training(family, transformer, device)
    if family.splits_tokens:
        split_tokens(transformer, (tokens_of(family.card, sample.condition.shape[1:]) for sample in stage.samples))


def _set_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = learning_rate


def take_step(
    family: Family,
    expert: Expert,
    transformer: nn.Module,
    samples: Sequence[Encoded],
    optimizer: torch.optim.Optimizer,
    settings: TrainSettings,
    losses: Sequence[float],
) -> float:
    """Takes one optimiser step and returns its loss. Samples of one shape go through the model together.

    Args:
        family: the model.
        expert: which of its transformers is trained.
        transformer: that transformer.
        samples: the samples of this step, on the device.
        optimizer: the optimiser of the LoRA.
        settings: how to train.
        losses: the losses of all steps before.

    Raises:
        InputError: the step would spoil the LoRA. Nothing has been changed.
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
    """Raises InputError if this loss and gradient norm, after the losses before, mean that the training diverges."""
    advice = f"Lower --lr from {rate:g} to {rate / 3:.0e} and run the command again."
    if not (math.isfinite(loss) and math.isfinite(gradient)):
        name = "gradient" if math.isfinite(loss) else "loss"
        raise InputError(f"The training {name} is not a finite number after {len(losses)} steps. {advice}")
    if len(losses) >= SETTLED_STEPS and loss > EXPLODED * float(np.median(losses)) > 0:
        usual = np.median(losses)
        raise InputError(
            f"The training loss exploded after {len(losses)} steps: {loss:.3g} after {usual:.3g}. {advice}"
        )


def _loss(
    family: Family,
    expert: Expert,
    transformer: nn.Module,
    samples: Sequence[Encoded],
    settings: TrainSettings,
    generator: torch.Generator,
) -> Tensor:
    """Returns the flow-matching loss of samples of one shape, each at its own random noise level."""
    batched = batch(samples)
    data = batched.target
    assert data is not None
    low, high = noise_range(expert, settings)
    levels = (low + (high - low) * torch.rand(len(samples), generator=generator)).to(data.device)
    noise = torch.randn(data.shape, generator=generator).to(data.device)
    noisy = add_noise(data, noise, levels.view(-1, 1, 1, 1, 1))
    with training_precision(data.device), checkpoints_kept(transformer, family.resources, data.device):
        velocity = family.velocity(transformer, noisy, levels * TIMESTEPS, batched)
    keep = torch.stack([sample.keep(family.card.latent_channels) for sample in samples])
    weight = 1 + (settings.edit_weight - 1) * (1 - keep)
    if family.card.mask == "tokens":  # kept tokens get no noise, so they teach nothing
        weight = 1 - keep
    return flow_matching_loss(velocity, data, noise, weight)


def _by_shape(samples: Sequence[Encoded]) -> Iterator[list[Encoded]]:
    """Yields the samples in groups of equal shapes, which can be stacked."""
    groups: dict[tuple[torch.Size, ...], list[Encoded]] = {}
    for sample in samples:
        shapes = tuple(value.shape for value in sample.tensors().values())
        groups.setdefault(shapes, []).append(sample)
    yield from groups.values()


def _draw(stage: Stage, settings: TrainSettings, step: int) -> list[Encoded]:
    """Draws the samples of a step. Every epoch has each sample as often as the stage says, in a new random order."""
    epoch = np.repeat(np.arange(len(stage.samples)), stage.repeats)
    drawn = []
    for count in range(step * settings.batch_size, (step + 1) * settings.batch_size):
        number, place = divmod(count, len(epoch))
        drawn.append(int(np.random.default_rng((settings.train_seed, number)).permutation(epoch)[place]))
    return [stage.samples[index] for index in drawn]


def _seed(seed: int, step: int) -> int:
    """Returns a separate 63-bit seed for every step."""
    return int(np.random.SeedSequence((seed, step, 1)).generate_state(1, np.uint64)[0] >> 1)
