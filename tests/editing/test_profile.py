"""A profile accounts for the time of a run, and counts nothing twice."""

from __future__ import annotations

import json
import time
from fractions import Fraction
from pathlib import Path

import pytest
from scenes import Scene

import loraedit
from loraedit.editing.profiling import Profile
from loraedit.types import Clip


def test_a_phase_within_another_is_counted_once() -> None:
    profile = Profile()
    with profile.phase("outer"):
        with profile.phase("inner"):
            time.sleep(0.02)
        time.sleep(0.01)
    assert profile.phases["inner"] >= 0.02
    assert 0.01 <= profile.phases["outer"] < profile.phases["inner"] + 0.01


def test_the_profile_of_a_run_adds_up_to_its_phases(scene: Scene, checkpoint: Path, tmp_path: Path) -> None:
    clip = Clip(scene.source, Fraction(5))
    settings = {"model": str(checkpoint), "steps": 2, "sampling_steps": 3, "profile": True}
    result = loraedit.edit(clip, scene.edited_first, scene.mask, run=tmp_path / "run", **settings)
    kept = json.loads((tmp_path / "run" / "profile.json").read_text())
    calls = {(row["phase"], row["part"]): row["calls"] for row in kept["parts"]}
    assert calls["train", "passes through the model"] == 2
    assert calls["sample", "passes through the model"] == 3
    assert sum(row["seconds"] for row in kept["parts"]) == pytest.approx(sum(result.phase_seconds.values()), rel=0.05)
