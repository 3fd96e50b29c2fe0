"""The advice for too little host memory names a way of holding the weights that takes less of it than the plan's."""

from __future__ import annotations

from pathlib import Path

import pytest

from loraedit.families.card import NANO, read_card
from loraedit.families.model_card import ModelCard, SingleFile
from loraedit.planning import advice, plan
from loraedit.planning.advice import host_advice
from loraedit.planning.fitting import Limits
from loraedit.planning.phase_cost import Cost
from loraedit.planning.work import work_of
from loraedit.settings import WeightStore, make_settings
from loraedit.types import Size

FULL = read_card(NANO)


def card_of(kind: str) -> ModelCard:
    file = SingleFile(path=Path("model"), config=FULL.config("transformer"), kinds={"blocks.0.ffn.net.2.weight": kind})
    return FULL.model_copy(update={"files": {"transformer": file}})


@pytest.mark.parametrize(
    ("card", "weights", "words"),
    [
        (FULL, "auto", "--weights int8"), (FULL, "full", "--weights int8"), (FULL, "int8", "--weights nf4"),
        (FULL, "fp8", "--weights nf4"), (FULL, "nf4", "fewer frames"), (card_of("fp8"), "auto", "--weights nf4"),
        (card_of("fp8"), "full", "leave --weights full out"), (card_of("Q8_0"), "auto", "--weights nf4"),
        (card_of("Q4_K"), "auto", "fewer frames"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("installed", [True, False])
def test_the_advice_takes_less_memory(
    card: ModelCard, weights: WeightStore, words: str, installed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(advice, "find_spec", lambda _: object() if installed else None)
    given = host_advice(card, weights)
    assert words in given
    assert ("pip install '.[quant]'" in given) == ("nf4" in words and not installed)


def test_a_plan_that_the_host_cannot_hold_ends_with_the_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    costs = dict.fromkeys(("train", "sample", "vae_encode", "vae_decode"), Cost(1, 1, 1))
    monkeypatch.setattr(plan, "measure_cost", lambda *_given, **_others: costs)
    settings = make_settings({"weights": "nf4"}).resolved(FULL.recipe)
    work = work_of(FULL, settings, Size(64, 64), [9], 0)
    made = plan.make_plan(FULL, "nano", Size(64, 64), work, Limits(10**12, host=1), settings.resources)
    assert made.remedy().endswith("Close other programs, or use fewer frames.")
