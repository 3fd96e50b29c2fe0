"""What a device cannot hold or compile is expanded, or refused before anything loads."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from loraedit.errors import InputError
from loraedit.families.card import NANO, read_card
from loraedit.families.frozen_weights import kinds_of
from loraedit.families.model_card import ModelCard, SingleFile
from loraedit.job.device_checks import check_against_device
from loraedit.settings import make_settings

MPS, CUDA = torch.device("mps"), torch.device("cuda")


def card_with(kinds: dict[str, str]) -> ModelCard:
    card = read_card(NANO)
    file = SingleFile(path=Path("model.safetensors"), config=card.config("transformer"), kinds=kinds)
    return card.model_copy(update={"files": {"transformer": file}})


FP8 = card_with({"a": "fp8"})


def check(card: ModelCard, device: torch.device, **settings: object) -> None:
    check_against_device(make_settings(settings).resolved(card.recipe), card.held_on(device.type), device)


def test_a_mac_expands_fp8_files_and_keeps_other_kinds() -> None:
    held = kinds_of(card_with({"a": "fp8", "b": "Q4_K"}).held_on("mps"), "transformer", "auto")
    assert (held("a"), held("b")) == (None, "Q4_K")
    assert FP8.held_on("cuda").kinds("transformer") == {"a": "fp8"}


def test_a_mac_refuses_to_quantise_to_fp8() -> None:
    with pytest.raises(InputError, match=r"\(mps\) has no fp8. Give --weights int8"):
        check(read_card(NANO), MPS, weights="fp8")
    check(read_card(NANO), MPS, weights="int8")
    check(FP8, MPS, compile_blocks=True)


@pytest.mark.parametrize(("capability", "refused"), [((8, 6), True), ((8, 9), False), ((12, 0), False)])
def test_fp8_is_compiled_only_where_triton_can(
    capability: tuple[int, int], refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    for card, settings in [(FP8, {}), (read_card(NANO), {"weights": "fp8"})]:
        check(card, CUDA, **settings)
        if refused:
            with pytest.raises(InputError, match="cannot compile fp8 weights on this GPU"):
                check(card, CUDA, compile_blocks=True, **settings)
        else:
            check(card, CUDA, compile_blocks=True, **settings)
    check(FP8, CUDA, compile_blocks=True, weights="full")
