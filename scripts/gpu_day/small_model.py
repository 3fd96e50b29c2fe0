"""nano on the device in bfloat16 against nano on the CPU in float32."""

from __future__ import annotations

from collections.abc import Iterator
from unittest import mock

import torch
from torch import Tensor

from loraedit.families import open_family
from loraedit.families.base import TIMESTEPS, Encoded, batch
from loraedit.families.card import NANO, read_card
from loraedit.planning import Shape
from loraedit.runtime import devices
from loraedit.settings import Resources, TrainSettings
from loraedit.training.loop import make_optimizer, place_for_training, take_step
from loraedit.types import Size
from scripts.gpu_check import run, with_lora
from scripts.gpu_day.bench import Bench
from scripts.gpu_day.measuring import cosine
from scripts.gpu_day.stage import Finding, Stage, alike, told

__all__ = ["NANO_STAGE"]

CPU = torch.device("cpu")
SHAPE = Shape(9, Size(32, 32))
TRAINING = TrainSettings(steps=5, rank=4, lr=1e-3)
LOSS = 0.02
"""The largest difference of a loss, as a share of it."""


def _run(bench: Bench) -> Iterator[Finding]:
    card = read_card(NANO)
    exact, here = run(card, Resources(), CPU, precise=True), run(card, Resources(), bench.device)
    yield alike("gradients", cosine(here.gradient, exact.gradient))
    yield alike("velocity", cosine(here.velocity, exact.velocity))
    losses, before, after = _trained(bench.device)
    with mock.patch.object(devices, "autocasts", return_value=False):  # in float32 on every CPU
        exact_losses, exact_before, exact_after = _trained(CPU)
    yield alike("velocity after five training steps", cosine(after, exact_after))
    worst = max(abs(one - other) / other for one, other in zip(losses, exact_losses, strict=True))
    yield Finding("largest difference of a loss in five steps", worst, "", None, worst < LOSS, f"below {LOSS}")
    change = cosine(after - before, exact_after - exact_before)
    yield told("what the five steps change in the velocity", change, note="AdamW magnifies rounding in small gradients")


def _trained(device: torch.device) -> tuple[list[float], Tensor, Tensor]:
    """Takes five steps; returns their losses, and the velocity for one input before and after them."""
    family = open_family(read_card(NANO))
    transformer = with_lora(family, device)
    place_for_training(family, transformer, device)
    generator = torch.Generator().manual_seed(0)
    shapes = family.encoded_shapes(SHAPE.latent(family.card))
    sample = Encoded(**{name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}).to(device)
    together = batch([sample])
    assert together.target is not None
    level = torch.tensor([0.5 * TIMESTEPS], device=device)
    losses: list[float] = []
    optimizer, velocities = make_optimizer(transformer.train(), TRAINING), []
    for steps in (0, TRAINING.steps):
        for _ in range(steps):
            losses.append(take_step(family, family.experts[0], transformer, [sample], optimizer, TRAINING, losses))
        with torch.no_grad(), devices.training_precision(device):
            velocities.append(family.velocity(transformer, together.target, level, together).float().cpu())
    return losses, velocities[0], velocities[1]


NANO_STAGE = Stage(
    "nano",
    60,
    "nano on the device in bfloat16, against nano on the CPU in float32: gradients, velocity, five training steps",
    f"gradients and velocities have a cosine above 0.99, every loss is within {LOSS:.0%}",
    _run,
)
