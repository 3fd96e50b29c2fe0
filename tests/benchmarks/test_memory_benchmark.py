"""What lives on the device is what the plan says, for every rung of the memory ladder."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import memory
from loraedit.families.card import read_card


def test_a_run_takes_what_its_plan_says(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    card = read_card(checkpoint)
    cases = [
        (phase, resources.swap_blocks, resources.offload_checkpoints) for phase, resources in memory.rungs_of(card)
    ]
    for case in (("train", 1, False), ("train", 2, True), ("sample", 1, False)):
        row = memory.run_rung(card, cases.index(case))
        assert row["measured"] == pytest.approx(row["planned"], rel=0.05), case
