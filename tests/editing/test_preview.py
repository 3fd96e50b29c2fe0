"""Previews: there before the result, and never in its bytes."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from scenes import Scene

import loraedit
from loraedit.types import Clip
from loraedit.video import read_image


@pytest.fixture(scope="module")
def runs(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """One edit with all previews and one with none."""
    from scenes import make_scene

    scene, folder, model = make_scene(), tmp_path_factory.mktemp("previews"), checkpoint
    told: list[tuple[str, str]] = []

    def progress(phase: str, _done: int, _total: int, note: str) -> None:
        told.append((phase, note))

    clip = Clip(scene.source, Fraction(5))
    settings = {"model": str(model), "steps": 10, "sampling_steps": 4}
    looked = loraedit.edit(
        clip, scene.edited_first, scene.mask, run=folder / "looked", preview_every=4,
        progress=progress, **settings,
    )  # fmt: skip
    plain = loraedit.edit(clip, scene.edited_first, scene.mask, run=folder / "plain", preview=False, **settings)
    return {"looked": looked, "plain": plain, "told": told, "folder": folder}


def test_previews_change_no_byte_of_frames_and_loras(runs: dict[str, Any]) -> None:
    looked, plain = runs["looked"], runs["plain"]
    assert looked.clip.fingerprint == plain.clip.fingerprint
    assert looked.lora_files[0].read_bytes() == plain.lora_files[0].read_bytes()
    assert not (runs["folder"] / "plain" / "preview").exists()


def test_the_first_look_comes_before_training_and_its_place_is_told(runs: dict[str, Any]) -> None:
    told = runs["told"]
    first = next(index for index, (_, note) in enumerate(told) if "preview/start-" in note)
    assert first < next(index for index, (phase, _) in enumerate(told) if phase == "train")
    height, width, _ = read_image(Path(told[first][1])).shape
    assert height > 100 and width > 100


def test_looks_come_every_so_many_steps_and_are_logged(runs: dict[str, Any]) -> None:
    run = runs["folder"] / "looked"
    events = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    files = [event["file"] for event in events if event["event"] == "preview"]
    assert files[1:] == ["preview/train-000004.png", "preview/train-000008.png"]
    assert all((run / file).is_file() for file in files)
    assert runs["looked"].files.preview == run / files[-1]


def test_a_run_that_costs_little_has_no_first_look(scene: Scene, checkpoint: Path, tmp_path: Path) -> None:
    clip = Clip(scene.source, Fraction(5))
    settings = {"model": str(checkpoint), "steps": 1, "sampling_steps": 3, "preview_every": 1}
    result = loraedit.edit(clip, scene.edited_first, scene.mask, run=tmp_path / "run", **settings)
    names = sorted(path.name for path in (tmp_path / "run" / "preview").iterdir())
    assert names == ["sample-0001.png", "sample-0002.png"]
    assert result.files.preview.name == names[-1]
