"""Claims about when training stops."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from encoded import CPU, encode_motion
from scenes import Scene

import loraedit
from loraedit.errors import InputError
from loraedit.families.card import NANO, read_card
from loraedit.settings import TrainSettings, make_settings, parse_budget
from loraedit.training import loop, state
from loraedit.training.state import TrainState
from loraedit.training.stopping import last_step, rate, settles

PLAIN = TrainSettings(steps=100, rank=2, lr=1e-3, lr_schedule="falling")
CHECKED = PLAIN.model_copy(update={"check_every": 5, "patience": 2, "min_gain": 0.1})


def after(steps: int, held_out: list[float]) -> TrainState:
    return TrainState([0.1] * steps, held_out)


def test_training_settles_when_the_loss_stops_improving_and_cools_down() -> None:
    assert not settles(after(10, [1.0, 0.8]), CHECKED)
    assert not settles(after(20, [1.0, 0.8, 0.79, 0.71]), CHECKED)  # the last one is a gain
    assert settles(after(20, [1.0, 0.8, 0.79, 0.75]), CHECKED)
    assert not settles(after(70, [1.0, 1.0, 1.0, 1.0]), CHECKED)  # too late: the learning rate falls by itself
    assert not settles(after(20, [1.0, 1.0, 1.0, 1.0]), PLAIN)
    settled = replace(after(20, []), settled=20)
    assert last_step(settled, CHECKED) == 25 and last_step(after(20, []), CHECKED) == 100
    rates = [rate(replace(settled, losses=[0.1] * step), CHECKED) for step in range(20, 25)]
    assert rates[0] == 1e-3 and rates == sorted(rates, reverse=True) and rates[-1] < 3e-4


def test_an_unstopped_training_has_the_learning_rates_of_its_steps() -> None:
    rates = [rate(after(step, []), PLAIN) / PLAIN.lr for step in (0, 4, 50, 66, 99)]
    assert rates == pytest.approx([0.2, 1.0, 1.0, 1.0, 0.127])


def test_a_constant_rate_falls_only_once_training_is_stopped_early() -> None:
    constant = CHECKED.model_copy(update={"lr_schedule": "constant"})
    assert {rate(after(step, []), constant) for step in range(100)} == {1e-3}
    assert settles(after(70, [1.0, 1.0, 1.0, 1.0]), constant)
    settled = replace(after(20, []), settled=20)
    rates = [rate(replace(settled, losses=[0.1] * step), constant) for step in range(20, 25)]
    assert rates[0] == 1e-3 and rates == sorted(rates, reverse=True) and rates[-1] < 3e-4


def test_a_budget_may_be_a_time() -> None:
    timed = PLAIN.model_copy(update={"budget_s": 10.0})
    assert not settles(replace(after(20, []), seconds=7.9), timed)
    assert settles(replace(after(20, []), seconds=8.1), timed)
    assert last_step(replace(after(20, []), settled=16, seconds=10.2), timed) == 20


@pytest.mark.parametrize(
    ("text", "expected"),
    [(None, (None, 0)), ("200steps", (200, 0)), ("10min", (None, 600)), ("1.5 h", (None, 5400)), ("90s", (None, 90))],
)
def test_a_budget_is_steps_or_time(text: str | None, expected: tuple[int | None, float]) -> None:
    assert parse_budget(text) == expected


@pytest.mark.parametrize("text", ["ten minutes", "0min", "1.5steps", "-3s", ""])
def test_another_budget_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="200steps, 90s or 10min"):
        make_settings({"budget": text}).resolved(read_card(NANO).recipe)


def test_a_budget_of_steps_caps_each_course() -> None:
    settled = make_settings({"budget": "12steps"}).resolved(read_card(NANO).recipe)
    assert (settled.steps, settled.reference_steps) == (12, 12)


def test_a_run_that_stops_early_ends_equally_after_an_interruption(
    checkpoint: Path, scene: Scene, tmp_path: Path
) -> None:
    """The held-out loss of this checkpoint never improves by half, so training settles after three checks."""
    call = {"first_frame": scene.edited_first, "mask": scene.mask, "model": str(checkpoint), "sampling_steps": 1}
    call |= {"steps": 40, "check_every": 3, "patience": 2, "min_gain": 0.5}
    whole = loraedit.edit(scene.source, run=tmp_path / "whole", **call)
    assert len(whole.losses) == 9 + 3
    honest = loop.take_step

    def cut_short(*arguments: object) -> float:
        if len(arguments[-1]) == 10:  # type: ignore[arg-type]
            raise KeyboardInterrupt
        return honest(*arguments)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(loop, "take_step", cut_short)
        patched.setattr(state, "_worth_saving", lambda *_: True)  # after every step
        with pytest.raises(KeyboardInterrupt):
            loraedit.edit(scene.source, run=tmp_path / "parts", **call)
    parts = loraedit.edit(scene.source, run=tmp_path / "parts", **call)
    assert parts.losses == whole.losses
    assert parts.lora_files[0].read_bytes() == whole.lora_files[0].read_bytes()
    (event,) = [
        json.loads(line) for line in (tmp_path / "parts/log.jsonl").read_text().splitlines() if "trained" in line
    ]
    assert event["steps"] == 2


def test_the_held_out_loss_is_of_the_edit_zone_alone(checkpoint: Path, scene: Scene) -> None:
    from loraedit.families import open_family
    from loraedit.training.stopping import held_out_loss

    family = open_family(read_card(checkpoint))
    transformer, encoded = family.load_transformer(family.experts[0], CPU), encode_motion(family, scene)
    losses = [held_out_loss(family, family.experts[0], transformer, [encoded], PLAIN, CPU) for _ in range(2)]
    assert losses[0] == losses[1]
    assert encoded.target is not None
    outside = encoded.keep(family.card.latent_channels) > 0.5
    assert outside.any() and not outside.all()
    seen = []

    def seen_by(*tensors: torch.Tensor) -> torch.Tensor:
        seen.append(tensors[-1])
        return torch.zeros(())

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("loraedit.training.stopping.flow_matching_loss", seen_by)
        held_out_loss(family, family.experts[0], transformer, [encoded], PLAIN, CPU)
    assert all(torch.equal(weight[0] == 0, encoded.keep(family.card.latent_channels) == 1) for weight in seen)
