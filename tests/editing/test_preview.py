"""Previews exist before the result and never change its bytes."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from scenes import Scene

import loraedit
from loraedit.editing.context import EditContext, open_context
from loraedit.editing.preview import preview_notes, wants_first_preview
from loraedit.families.card import NANO, read_card
from loraedit.job.prepare import prepare
from loraedit.job.request import EditRequest
from loraedit.settings import Resources, make_settings
from loraedit.storage.lora_store import open_store
from loraedit.types import Clip
from loraedit.video import read_image


@pytest.fixture(scope="module")
def runs(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """One edit with all previews and one without."""
    from scenes import make_scene

    scene, folder, model = make_scene(), tmp_path_factory.mktemp("previews"), checkpoint
    events: list[tuple[str, str]] = []

    def progress(phase: str, _done: int, _total: int, note: str) -> None:
        events.append((phase, note))

    clip = Clip(scene.source, Fraction(5))
    settings = {"model": str(model), "steps": 10, "sampling_steps": 4}
    previewed = loraedit.edit(
        clip, scene.edited_first, scene.mask, run=folder / "previewed", preview=True, preview_every=4,
        progress=progress, **settings,
    )  # fmt: skip
    plain = loraedit.edit(clip, scene.edited_first, scene.mask, run=folder / "plain", **settings)
    return {"previewed": previewed, "plain": plain, "events": events, "folder": folder}


def test_previews_change_no_byte_of_frames_and_loras(runs: dict[str, Any]) -> None:
    previewed, plain = runs["previewed"], runs["plain"]
    assert previewed.clip.fingerprint == plain.clip.fingerprint
    assert previewed.lora_files[0].read_bytes() == plain.lora_files[0].read_bytes()
    assert not (runs["folder"] / "plain" / "preview").exists()


def test_the_first_preview_comes_before_training_and_its_path_is_reported(runs: dict[str, Any]) -> None:
    events = runs["events"]
    first = next(index for index, (_, note) in enumerate(events) if "preview/start-" in note)
    assert first < next(index for index, (phase, _) in enumerate(events) if phase == "train")
    height, width, _ = read_image(Path(events[first][1])).shape
    assert height > 100 and width > 100


def test_previews_come_at_regular_steps_and_are_logged(runs: dict[str, Any]) -> None:
    run = runs["folder"] / "previewed"
    events = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    files = [event["file"] for event in events if event["event"] == "preview"]
    assert files[1:] == ["preview/train-000004.png", "preview/train-000008.png"]
    assert all((run / file).is_file() for file in files)
    assert runs["previewed"].files.preview == run / files[-1]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [({}, True), ({"prior": False}, False), ({"steps": 1, "sampling_steps": 3}, False), ({"preview": False}, False)],
)
def test_a_model_with_a_prior_has_a_first_preview_before_a_costly_run(
    scene: Scene, tmp_path: Path, settings: dict[str, Any], expected: bool
) -> None:
    assert wants_first_preview(context_of(scene, NANO, tmp_path, **settings)) == expected


def test_a_model_without_a_prior_has_a_first_preview_only_if_asked(
    scene: Scene, checkpoint: Path, tmp_path: Path
) -> None:
    assert not wants_first_preview(context_of(scene, checkpoint, tmp_path, steps=100))
    assert wants_first_preview(context_of(scene, checkpoint, tmp_path, steps=1, preview=True))


def context_of(scene: Scene, model: Path, run: Path, **settings: Any) -> EditContext:
    chosen = make_settings({"model": str(model), **settings})
    job = prepare(EditRequest(scene.source, scene.edited_first, scene.mask, settings=chosen))
    return open_context(job, run, torch.device("cpu"), Resources(), open_store("none"))


def test_previews_while_a_run_goes_on_need_no_first_one(scene: Scene, checkpoint: Path, tmp_path: Path) -> None:
    clip = Clip(scene.source, Fraction(5))
    settings = {"model": str(checkpoint), "steps": 1, "sampling_steps": 3, "preview_every": 1}
    result = loraedit.edit(clip, scene.edited_first, scene.mask, run=tmp_path / "run", **settings)
    names = sorted(path.name for path in (tmp_path / "run" / "preview").iterdir())
    assert names == ["sample-0001.png", "sample-0002.png"]
    assert result.files.preview.name == names[-1]


def test_several_processes_say_that_they_make_no_previews(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = read_card(NANO).recipe
    settings = [make_settings(given).resolved(recipe) for given in ({"preview": True, "preview_every": 2}, {})]
    assert [preview_notes(each) for each in settings] == [[], []]
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert preview_notes(settings[1]) == []
    (note,) = preview_notes(settings[0])
    assert "no previews; it ignores --preview and --preview-every" in note
