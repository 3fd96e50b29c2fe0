"""Claims about the solvers and flow shifts that a user may name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from parity import KINDS

from loraedit.families import open_family
from loraedit.families.card import read_card
from loraedit.sampling.schedule import make_schedule
from loraedit.settings import SamplingSettings
from loraedit.settings.values import SchedulerName

# diffusers 0.42 copies a tensor in a way that numpy deprecates when it builds a DPM++ schedule.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

STEPS = 6
SHAPE = (4, 3, 4, 4)


def levels(model: Path, **settings: object) -> list[float]:
    family = open_family(read_card(model))
    sampling = SamplingSettings(sampling_steps=STEPS, guidance=1.0, **settings)  # type: ignore[arg-type]
    shape = (family.card.latent_channels, *SHAPE[1:])
    return make_schedule(family, sampling, shape, torch.device("cpu")).levels


def shifted(shift: float) -> np.ndarray:
    even = np.linspace(1, 0, STEPS + 1)
    return shift * even / (1 + (shift - 1) * even)


@pytest.mark.parametrize("kind", ["wan", *KINDS])
def test_euler_takes_even_steps_moved_by_the_flow_shift_for_every_family(
    checkpoint: Path, others: dict[str, Path], kind: str
) -> None:
    model = {"wan": checkpoint, **others}[kind]
    assert levels(model, scheduler="euler", flow_shift=5.0) == pytest.approx(shifted(5.0), abs=1e-6)
    assert levels(model, scheduler="euler", flow_shift=1.0) == pytest.approx(shifted(1.0), abs=1e-6)


@pytest.mark.parametrize("kind", ["wan", *KINDS])
def test_without_a_name_or_a_shift_the_checkpoint_decides_and_a_shift_moves_its_levels(
    checkpoint: Path, others: dict[str, Path], kind: str
) -> None:
    model = {"wan": checkpoint, **others}[kind]
    own, moved = levels(model), levels(model, flow_shift=12.0)
    assert own[0] > 0.95 and own[-1] == moved[-1] == 0
    assert own != moved and all(np.diff(own) < 0) and all(np.diff(moved) < 0)
    assert sum(moved) > sum(own)


@pytest.mark.parametrize("name", ["unipc", "dpm++"])
def test_multistep_solvers_have_the_checkpoints_shift_unless_another_is_named(
    checkpoint: Path, name: SchedulerName
) -> None:
    own, moved = levels(checkpoint, scheduler=name), levels(checkpoint, scheduler=name, flow_shift=9.0)
    assert own == pytest.approx(levels(checkpoint, scheduler=name, flow_shift=3.0))  # that of the tiny checkpoint
    assert sum(moved) > sum(own)


@pytest.mark.parametrize("name", ["model", "euler", "unipc", "dpm++"])
def test_every_solver_reaches_what_a_perfect_model_points_at(checkpoint: Path, name: SchedulerName) -> None:
    family = open_family(read_card(checkpoint))
    sampling = SamplingSettings(sampling_steps=STEPS, guidance=1.0, scheduler=name, flow_shift=4.0)
    schedule = make_schedule(family, sampling, SHAPE, torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    data, latents = (torch.randn(SHAPE, generator=generator) for _ in range(2))
    for index, level in enumerate(schedule.levels[:-1]):
        latents = schedule.step(index, latents, (latents - data) / level)
    assert torch.allclose(latents, data, atol=1e-4)
