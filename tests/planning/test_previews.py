"""Previews during an edit are decoded beside a transformer, and planned so."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from loraedit.families.card import NANO, read_card
from loraedit.planning import Cost, Fitting, Limits, Shape, measure_cost, work_of
from loraedit.planning.cost import lora_bytes
from loraedit.planning.uses import Uses
from loraedit.settings import Resources, TrainSettings, make_settings
from loraedit.types import Size

GB = 10**9
SHAPE = Shape(9, Size(64, 64))


def test_a_preview_takes_the_vae_on_top_of_what_stays_between_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    card, settings, resources = read_card(NANO), TrainSettings(steps=1, rank=2, lr=1e-3), Resources(checkpointing=True)
    plain = measure_cost(card, SHAPE, settings, resources)
    shown = measure_cost(card, SHAPE, settings, resources, uses=Uses(previews=True))
    moments, vae = 2 * lora_bytes(card, SHAPE, settings), plain["vae_decode"]
    assert moments < plain["train"].idle_bytes < plain["train"].working_bytes
    for phase in ("train", "sample"):
        beside = plain[phase].weights_bytes + plain[phase].idle_bytes + vae.peak_bytes
        assert shown[phase].peak_bytes == max(plain[phase].peak_bytes, beside) > plain[phase].peak_bytes
    assert {name: cost for name, cost in shown.items() if name not in ("train", "sample")} == {
        name: cost for name, cost in plain.items() if name not in ("train", "sample")
    }


def test_previews_during_the_run_are_planned_and_one_before_it_is_not() -> None:
    card = read_card(NANO)
    asked = ({"preview_every": 5}, {"preview": True})
    works = [work_of(card, make_settings(each).resolved(card.recipe), SHAPE.size, [9], 0) for each in asked]
    assert [work.uses.previews for work in works] == [True, False]


@pytest.mark.parametrize(("budget", "tiled", "swapped"), [(30, False, 0), (24, True, 0), (17, False, 6), (13, True, 6)])
def test_the_vae_works_in_tiles_before_blocks_are_swapped_for_a_preview(budget: int, tiled: bool, swapped: int) -> None:
    def measure(resources: Resources) -> Mapping[str, Cost]:
        weights = (12 - 2 * max(resources.swap_blocks - 2, 0)) * GB
        decode = Cost(1, 0, (4 if resources.tile_vae else 9) * GB)
        train = Cost(1, weights, 5 * GB, idle_bytes=2 * GB)
        return {"train": train.beside(decode.peak_bytes), "vae_decode": decode}

    fitting = Fitting(measure, lambda *_: 0, lambda chosen: chosen, blocks=6, previews=True)
    chosen = fitting.choose(Limits(budget * GB))
    assert (chosen.tile_vae, chosen.swap_blocks) == (tiled, swapped)
