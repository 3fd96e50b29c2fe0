"""The frame rate of a clip: the note about one far from the model's, and the one that a model reads."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scenes import Scene

import loraedit
from loraedit.families.base import Encoded
from loraedit.families.card import NANO, read_card
from loraedit.families.encoding import encode_by
from loraedit.job.frame_rate import frame_rate_for, frame_rate_notes
from loraedit.job.inputs import read_source
from loraedit.runs.finished import read_finished
from loraedit.types import Clip
from loraedit.video import write_image

FRAMES = np.zeros((2, 16, 16, 3), np.uint8)


@pytest.mark.parametrize(
    ("rate", "words"),
    [
        (Fraction(25), "16 frames a second and the clip has 25, so motion between frames is smaller"),
        (Fraction(30000, 1001), "has 29.97, "),
        (Fraction(10), "larger"),
        (Fraction(24), ""),
        (Fraction(11), ""),
        (Fraction(90000), ""),
    ],
)
def test_a_rate_far_from_the_models_is_said(checkpoint: Path, rate: Fraction, words: str) -> None:
    notes = frame_rate_notes(read_card(checkpoint), Clip(FRAMES, rate))
    assert len(notes) == bool(words)
    assert not notes or words in notes[0]


def test_nothing_is_said_of_nano_or_of_a_model_that_reads_the_rate(others: dict[str, Path]) -> None:
    for folder in (NANO, others["ltx"], others["ltx 2"]):
        assert frame_rate_notes(read_card(folder), Clip(FRAMES, Fraction(60))) == []


def test_frames_without_a_rate_take_the_models(others: dict[str, Path], checkpoint: Path, tmp_path: Path) -> None:
    write_image(tmp_path / "0.png", FRAMES[0])
    untimed = [read_source(tmp_path), read_source(FRAMES)]
    card = read_card(others["ltx"])
    assert [frame_rate_for(card, clip) for clip in untimed] == [25.0, 25.0]
    assert frame_rate_for(card, Clip(FRAMES, Fraction(24))) == 24.0
    assert frame_rate_for(card, Clip(FRAMES, Fraction(90000))) == 25.0
    assert frame_rate_for(read_card(checkpoint), Clip(FRAMES, Fraction(24))) is None
    assert frame_rate_notes(read_card(checkpoint), untimed[1]) == []


@pytest.mark.parametrize(
    ("name", "timed", "expected"), [("ltx", True, 12.0), ("ltx", False, 25.0), ("wan", True, None)]
)
def test_every_sample_of_an_edit_has_the_clips_rate(
    every: dict[str, Path],
    scene: Scene,
    tmp_path: Path,
    name: str,
    timed: bool,
    expected: float | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = Clip(scene.source, Fraction(12)) if timed else scene.source
    encoded: list[Encoded] = []

    def encode(*given: Any) -> list[Encoded]:
        encoded.extend(made := encode_by(*given))
        return made

    monkeypatch.setattr("loraedit.editing.cache.encode_by", encode)
    loraedit.edit(
        source, scene.edited_first, scene.mask, model=str(every[name]), run=tmp_path / "run", steps=1,
        references={4: scene.edited_first}, reference_steps=1, sampling_steps=1, prompt="a red coat",
    )  # fmt: skip
    rates = [None if each.frame_rate is None else each.frame_rate.item() for each in encoded]
    assert rates == [expected] * 3  # motion, appearance, generation
    assert read_finished(tmp_path / "run").source.timed == timed
