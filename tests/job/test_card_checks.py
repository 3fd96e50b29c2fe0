"""Ways of holding weights that make no sense for a model's files are refused before anything loads."""

from __future__ import annotations

from pathlib import Path

import pytest

from loraedit.errors import InputError
from loraedit.families.card import NANO, read_card
from loraedit.families.model_card import ModelCard, SingleFile
from loraedit.job import card_checks
from loraedit.job.card_checks import check_against_card
from loraedit.settings import make_settings


def card_with(kind: str | None) -> ModelCard:
    """Returns a model card whose transformer is a file with a weight of this kind."""
    card, kinds = read_card(NANO), {} if kind is None else {"blocks.0.ffn.net.2.weight": kind}
    file = SingleFile(path=Path("model.gguf"), config=card.config("transformer"), kinds=kinds)
    return card.model_copy(update={"files": {"transformer": file}})


def mixed(*kinds: str) -> ModelCard:
    """Returns a card with a file of several kinds, as ``Q4_K_M`` files are."""
    card = card_with(None)
    stored = {f"blocks.{number}.ffn.net.2.weight": kind for number, kind in enumerate(kinds)}
    file = card.files["transformer"].model_copy(update={"kinds": stored})
    return card.model_copy(update={"files": {"transformer": file}})


def check(card: ModelCard, weights: str) -> None:
    check_against_card(make_settings({"weights": weights}).resolved(card.recipe), card)


@pytest.fixture(autouse=True)
def _with_bitsandbytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(card_checks, "find_spec", lambda _: object())


@pytest.mark.parametrize("weights", ["auto", "full", "fp8", "int8", "nf4"])
def test_full_weights_may_be_held_in_every_way(weights: str) -> None:
    check(card_with(None), weights)


@pytest.mark.parametrize(
    ("kind", "weights"),
    [
        ("fp8", "auto"),
        ("fp8", "full"),
        ("fp8", "fp8"),
        ("fp8", "nf4"),
        ("Q4_K", "auto"),
        ("Q4_K", "full"),
        ("Q8_0", "nf4"),
        ("Q6_K", "nf4"),
    ],
)
def test_quantised_weights_stay_are_expanded_or_shrink(kind: str, weights: str) -> None:
    check(card_with(kind), weights)


@pytest.mark.parametrize(
    ("kind", "weights"),
    [("fp8", "int8"), ("Q4_K", "fp8"), ("Q4_K", "nf4"), ("Q5_K", "nf4"), ("Q8_0", "int8")],
)
def test_quantised_weights_do_not_change_their_kind_for_nothing(kind: str, weights: str) -> None:
    with pytest.raises(InputError, match=rf"'model.gguf' is quantised already \({kind}\), so --weights {weights}"):
        check(card_with(kind), weights)


def test_a_file_of_several_kinds_shrinks_only_if_all_of_them_do() -> None:
    check(mixed("Q6_K", "Q8_0"), "nf4")
    with pytest.raises(InputError, match=r"\(Q4_K, Q6_K\), so --weights nf4 would lose precision and save little"):
        check(mixed("Q4_K", "Q6_K"), "nf4")


def test_nf4_without_bitsandbytes_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(card_checks, "find_spec", lambda _: None)
    with pytest.raises(InputError, match=r"needs the bitsandbytes package: pip install '\.\[quant\]'"):
        check(card_with(None), "nf4")
    check(card_with(None), "int8")


def test_one_full_expert_may_be_quantised_beside_a_quantised_one() -> None:
    card = card_with("Q4_K")
    check(card.model_copy(update={"experts": ("transformer", "transformer_2")}), "int8")
