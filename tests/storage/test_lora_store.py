"""Claims about what runs share: who trained it once need not train it again."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scenes import Scene, make_scene
from typer.testing import CliRunner

import loraedit
from loraedit.cli.main import app
from loraedit.editing import EditResult
from loraedit.editing.repeat import plan_repetition
from loraedit.editing.segment_inputs import training_input
from loraedit.editing.target_clip import open_target_clip
from loraedit.editing.train import WAITING
from loraedit.errors import InputError
from loraedit.job.prepare import prepare
from loraedit.job.request import EditRequest
from loraedit.settings import make_settings
from loraedit.storage.files import save_tensors
from loraedit.storage.lora_store import Learnt, Store, open_store

STEPS = 3


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "store"


def edit(scene: Scene, model: Path, run: Path, **settings: Any) -> EditResult:
    texts = {"prompt": "a coat", "source_prompt": "a coat"}
    given = {"sampling_steps": 1, "steps": STEPS, "first_frame": scene.edited_first, **texts, **settings}
    return loraedit.edit(scene.source, mask=scene.mask, model=str(model), run=run, **given)


def events(run: Path, name: str) -> list[dict[str, Any]]:
    lines = (json.loads(line) for line in (run / "log.jsonl").read_text().splitlines())
    return [line for line in lines if line["event"] == name]


def trained(run: Path) -> list[str]:
    """The courses that a run has trained by its log."""
    return [event["lora"].split("-")[0] for event in events(run, "trained")]


def kept(run: Path) -> dict[str, bytes]:
    """What an edit is: everything but caches and times."""
    files = [path for path in run.rglob("*") if path.is_file() and "cache" not in path.parts]
    return {str(path.relative_to(run)): path.read_bytes() for path in files if path.name != "log.jsonl"}


def test_a_second_edit_of_a_clip_takes_no_training_step_and_is_the_same_as_without_a_store(
    checkpoint: Path, scene: Scene, place: Path, tmp_path: Path
) -> None:
    first = edit(scene, checkpoint, tmp_path / "first", store=str(place))
    assert trained(tmp_path / "first") == ["motion"] and first.saved_steps == 0
    other = np.where(scene.mask[0][..., None], np.uint8(9), scene.edited_first)
    changes = {"first_frame": other, "prompt": "a red coat", "seed": 4}
    shared = edit(scene, checkpoint, tmp_path / "shared", store=str(place), **changes)
    assert shared.reused == ["train motion"] and shared.saved_steps == STEPS and shared.saved_seconds > 0
    assert trained(tmp_path / "shared") == [] and "train" not in shared.phase_seconds
    (found,) = events(tmp_path / "shared", "reused")
    assert found["found_in"] == "store" and found["saved"]["steps"] == STEPS
    edit(scene, checkpoint, tmp_path / "alone", store="none", **changes)
    assert trained(tmp_path / "alone") == ["motion"]
    assert kept(tmp_path / "shared") == kept(tmp_path / "alone")


def test_what_was_trained_before_the_end_came_is_in_the_store_all_the_same(
    checkpoint: Path, scene: Scene, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("loraedit.storage.lora_store.write_json", killed)  # the LoRA is there, its record is not
        with pytest.raises(KeyboardInterrupt):
            edit(scene, checkpoint, tmp_path / "run", store=str(place))
    assert not list(place.glob("*.json"))
    edit(scene, checkpoint, tmp_path / "run", store=str(place))
    assert len(list(place.glob("*.json"))) == 1


def test_references_go_on_from_what_has_been_learnt(
    checkpoint: Path, scene: Scene, place: Path, tmp_path: Path
) -> None:
    looks = {index: np.where(scene.mask[index][..., None], np.uint8(9), scene.source[index]) for index in (4, 2)}
    one_by_one = {"reference_training": "sequential"}
    for run, indices in (("none", ()), ("one", (4,)), ("two", (4, 2))):
        references = {index: looks[index] for index in indices}
        result = edit(scene, checkpoint, tmp_path / run, store=str(place), references=references, **one_by_one)
        assert trained(tmp_path / run) == (["appearance"] if indices else ["motion"])
        assert result.reused == ["train motion", "train appearance"][: len(indices)]
    (event,) = events(tmp_path / "two", "trained")
    assert event["steps"] == 2 and (tmp_path / "one/lora" / f"{event['start']}.safetensors").is_file()
    edit(scene, checkpoint, tmp_path / "alone", store="none", references=looks, **one_by_one)
    assert kept(tmp_path / "two") == kept(tmp_path / "alone")
    repetition = plan_repetition(tmp_path / "two", None, tmp_path / "again")
    assert list(repetition.job.references) == [4, 2] and repetition.job.settings.store == "none"


@pytest.mark.usefixtures("coarse_flow")
def test_the_motion_of_a_long_clip_is_taught_alike_whatever_is_edited(checkpoint: Path) -> None:
    scene, taught = make_scene(frames=9), []
    settings = make_settings({"model": str(checkpoint), "segment_frames": 5, "crop": "off", "fill": "carry"})
    for references in ({}, {6: scene.source[6] // 2}):
        job = prepare(EditRequest(scene.source, scene.edited_first, scene.mask, references, settings=settings))
        clip = open_target_clip(job, job.targets[0])
        inputs = [training_input(clip, segment) for segment in job.segments]
        taught.append([(each.source, guide.pixels, guide.trusted) for each in inputs for guide in each.source_guides])
    assert len(taught[0]) == 2 * len(job.segments) > 2
    assert all(np.array_equal(x, y) for one, two in zip(*taught, strict=True) for x, y in zip(one, two, strict=True))


def test_who_wants_a_lora_that_another_run_is_training_waits_for_it(
    checkpoint: Path, scene: Scene, place: Path, tmp_path: Path
) -> None:
    made = edit(scene, checkpoint, tmp_path / "a", store="none")
    store, lora, told = Store(place), made.lora_files[0], threading.Event()
    waiting = threading.Thread(
        target=edit,
        args=(scene, checkpoint, tmp_path / "b"),
        kwargs={"store": str(place), "progress": lambda *step: told.set() if step[3] == WAITING else None},
    )
    with store.sole_maker(lora.stem, lambda: None):
        waiting.start()
        assert told.wait(60) and not trained(tmp_path / "b")
        store.publish(lora, Learnt(made.losses, 1.0))
    waiting.join()
    assert trained(tmp_path / "b") == [] and kept(tmp_path / "a") == kept(tmp_path / "b")
    assert not list(place.glob("*.lock"))


def test_a_damaged_lora_is_no_longer_kept_and_trained_again(
    checkpoint: Path, scene: Scene, place: Path, tmp_path: Path
) -> None:
    edit(scene, checkpoint, tmp_path / "a", store=str(place))
    (file,) = place.glob("*.safetensors")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.unlink()
    file.write_bytes(content)
    edit(scene, checkpoint, tmp_path / "b", store=str(place))
    assert trained(tmp_path / "b") == ["motion"] and kept(tmp_path / "a") == kept(tmp_path / "b")


def make_lora(folder: Path, name: str) -> Path:
    import torch

    path = folder / f"{name}.safetensors"
    save_tensors(path, {"a": torch.zeros(1000)})
    return path


def test_what_was_used_least_recently_makes_room(place: Path, tmp_path: Path) -> None:
    import os

    store = Store(place, limit_bytes=10_000)
    for at, name in enumerate("abc"):
        store.publish(make_lora(tmp_path, name), Learnt([0.1], 1.0))
        for record in place.glob(f"{name}-*.json"):
            os.utime(record, (at, at))
        if name == "b":
            assert store.fetch(tmp_path / "run/a.safetensors") == Learnt([0.1], 1.0)
    assert [path.name[0] for path, _ in store.entries()] == ["c", "a"]
    assert store.fetch(tmp_path / "run/b.safetensors") is None


def test_a_command_says_what_is_kept_and_removes_it(place: Path, tmp_path: Path) -> None:
    Store(place).publish(make_lora(tmp_path, "a"), Learnt([0.1], 1.0))
    said = CliRunner().invoke(app, ["store", "--store", str(place), "--json"])
    assert json.loads(said.stdout)["loras"] == 1
    said = CliRunner().invoke(app, ["store", "--store", str(place), "--clear"])
    assert said.exit_code == 0 and not list(place.iterdir())


def test_the_place_is_what_was_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert open_store(None).folder is None  # by the environment of the tests
    monkeypatch.delenv("LORAEDIT_STORE")
    assert open_store(None).folder == tmp_path / "loraedit/loras"
    assert open_store("none").folder is None
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="Give another --store, or none"):
        open_store(str(tmp_path / "file"))
