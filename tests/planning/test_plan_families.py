"""Plans of all families count the true operations, and a few blocks suffice to know many."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from parity import KINDS
from torch.nn.attention import SDPBackend, sdpa_kernel

from loraedit.families import open_family
from loraedit.families.base import Encoded, batch
from loraedit.families.card import NANO, read_card
from loraedit.lora.adapter import attach
from loraedit.planning import Shape, measure_cost
from loraedit.planning import transformer_cost as measuring
from loraedit.planning.depth import from_few_blocks
from loraedit.planning.meter import Meter
from loraedit.settings import Resources, TrainSettings
from loraedit.types import Size

CPU = torch.device("cpu")
SETTINGS = TrainSettings(steps=1, rank=2, lr=1e-3)
RESOURCES = Resources(checkpointing=True)


@pytest.mark.parametrize("name", KINDS)
def test_a_plan_counts_the_operations_of_a_true_pass(
    others: dict[str, Path], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    card = read_card(others[name])
    shape = Shape(2 * card.frame_step + 1, Size(64, 64))
    costs = measure_cost(card, shape, SETTINGS, Resources(checkpointing=True))
    assert all(cost.flops > 0 and cost.peak_bytes > cost.working_bytes > 0 for cost in costs.values())
    assert ("image_encode" in costs) == (name == "hunyuan 1.5")
    assert costs["train"].flops > costs["sample"].flops
    assert costs["sample"].flops == pytest.approx(true_operations(card, shape), rel=1e-3)


def test_a_longer_prompt_costs_more_though_the_shorter_one_was_measured(
    others: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    card = read_card(others["ltx"])
    longer = card.model_copy(update={"settings": card.settings.model_copy(update={"text_tokens": 64})})
    shape = Shape(2 * card.frame_step + 1, Size(64, 64))
    short, long = (measure_cost(each, shape, SETTINGS, Resources()) for each in (card, longer))
    assert all(long[name].flops > short[name].flops for name in ("train", "sample"))


def true_operations(card: object, shape: Shape) -> int:
    """Counts the operations of a forward pass on real tensors, in which no token is kept."""
    family = open_family(card)  # type: ignore[arg-type]
    transformer = family.load_transformer(family.experts[0], CPU)
    attach(transformer, family.lora_targets("all"), SETTINGS.rank, seed=0)
    values = {name: torch.ones(sizes) for name, sizes in family.encoded_shapes(shape.latent(family.card)).items()}
    together = batch([Encoded(**{**values, "condition": torch.zeros_like(values["condition"])})])
    assert together.target is not None
    with Meter(transformer) as meter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        family.velocity(transformer, together.target, torch.tensor([500.0]), together)
    return meter.flops


def test_few_blocks_say_what_all_of_them_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def step() -> dict[str, int]:
        found = measuring.TransformerPlan(
            read_card(NANO), "transformer", Shape(9, Size(64, 64)), SETTINGS, RESOURCES
        ).train()
        return {"flops": found.flops, "weights": found.weights_bytes, "working": found.working_bytes}

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "few"))
    few = step()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "all"))
    monkeypatch.setattr(measuring, "from_few_blocks", lambda card, _expert, measure: measure(card))
    whole = step()
    assert from_few_blocks is not measuring.from_few_blocks
    assert (few["flops"], few["weights"]) == (whole["flops"], whole["weights"])
    assert few["working"] == pytest.approx(whole["working"], rel=0.02)
