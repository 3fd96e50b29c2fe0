"""Claims of docs/reliability.md: one process at a time, repeatable, damage noticed, numbers sound."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scenes import Scene

import loraedit
from loraedit.errors import InputError
from loraedit.runs.finished import read_finished
from loraedit.runs.folder import SETTINGS_FILE
from loraedit.storage.files import save_tensors, try_load_tensors
from loraedit.storage.locks import LOCK_FILE, sole_user
from loraedit.training import loop

HOLD = "import sys, time; from pathlib import Path; from loraedit.storage.locks import sole_user\n"
HOLD += "with sole_user(Path(sys.argv[1])): print('held', flush=True); time.sleep(600)"


def results(run: Path) -> dict[str, bytes]:
    """All that a run is for, by path."""
    kept = [path for name in ("frames", "lora") for path in sorted((run / name).iterdir())]
    return {str(path.relative_to(run)): path.read_bytes() for path in kept if path.suffix != ".damaged"}


def edit(scene: Scene, model: Path, run: Path, **settings: object) -> None:
    references = {4: scene.source[4] // 2}
    loraedit.edit(
        scene.source, scene.edited_first, scene.mask, references=references, model=str(model), steps=2, run=run,
        dilate_px=1, **settings,
    )  # fmt: skip


@pytest.fixture(scope="module")
def finished(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from scenes import make_scene

    run = tmp_path_factory.mktemp("reliability") / "run"
    edit(make_scene(), checkpoint, run)
    return run


# ---- one process at a time -------------------------------------------------------------------------------------------


def test_a_folder_is_held_by_one_process_and_a_killed_one_leaves_it(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE)
    assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
    with pytest.raises(InputError, match="Another loraedit is at work"), sole_user(tmp_path):
        pass
    os.kill(holder.pid, signal.SIGKILL)
    holder.communicate()
    with sole_user(tmp_path), pytest.raises(InputError, match="Another loraedit"), sole_user(tmp_path):
        pass
    assert (tmp_path / LOCK_FILE).read_bytes() == b""


def test_an_edit_in_a_locked_folder_is_refused_and_changes_nothing(
    checkpoint: Path, scene: Scene, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    with sole_user(run), pytest.raises(InputError, match="Another loraedit is at work"):
        edit(scene, checkpoint, run)
    assert [path.name for path in run.iterdir()] == [LOCK_FILE]


# ---- repeating -------------------------------------------------------------------------------------------------------


def test_a_run_is_repeated_to_the_byte_and_what_changed_is_said(finished: Path, tmp_path: Path) -> None:
    from loraedit.editing.repeat import plan_repetition

    repetition = plan_repetition(finished, None, tmp_path / "again")
    _, same = repetition.carry_out(lambda *_: None)
    assert same and repetition.differences == []
    assert results(tmp_path / "again") == results(finished)
    assert read_finished(tmp_path / "again").provenance == read_finished(finished).provenance

    older = shutil.copytree(finished, tmp_path / "older")
    record = json.loads((older / SETTINGS_FILE).read_text())
    record["versions"]["torch"], record["inputs"]["model"] = "0.1", "other"
    (older / SETTINGS_FILE).write_text(json.dumps(record))
    result = json.loads((older / "result.json").read_text())
    (older / "result.json").write_text(json.dumps({**result, "settings": loraedit.storage.files.fingerprint(record)}))
    differences = " ".join(plan_repetition(older, None, tmp_path / "new").differences)
    assert "but was 0.1 in the run" in differences and "fingerprint differs" in differences
    with pytest.raises(InputError, match="lies in the run folder"):
        plan_repetition(finished, None, finished / "again")


@pytest.mark.parametrize("recipe", ["paper", "fast"])
def test_a_mask_that_the_recipe_turned_into_boxes_is_repeated_as_it_was(
    recipe: str, checkpoint: Path, scene: Scene, tmp_path: Path
) -> None:
    from loraedit.editing.repeat import plan_repetition

    edit(scene, checkpoint, tmp_path / "run", recipe=recipe)
    repetition = plan_repetition(tmp_path / "run", None, tmp_path / "again")
    _, same = repetition.carry_out(lambda *_: None)
    assert same and repetition.job.settings.mask_boxes and repetition.job.settings.dilate_px == 1
    assert results(tmp_path / "again") == results(tmp_path / "run")
    assert read_finished(tmp_path / "again").provenance == read_finished(tmp_path / "run").provenance


# ---- damage ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", ["header", "tensor", "checksum"])
def test_a_flipped_bit_is_noticed_and_the_file_set_aside(tmp_path: Path, at: str) -> None:
    path = tmp_path / "a.safetensors"
    save_tensors(path, {"a": torch.arange(8.0)}, {"note": "x"})
    assert try_load_tensors(path, ("a",)) is not None
    content = bytearray(path.read_bytes())
    place = {"header": content.index(b'"F32"') + 1, "tensor": len(content) - 3, "checksum": content.index(b"sha256")}
    content[place[at]] ^= 1
    path.write_bytes(content)
    assert try_load_tensors(path, ("a",)) is None
    assert [each.name for each in tmp_path.iterdir()] == ["a.safetensors.damaged"]


def test_with_flipped_bytes_in_every_file_the_same_result_comes_out(
    finished: Path, checkpoint: Path, scene: Scene, tmp_path: Path
) -> None:
    run = shutil.copytree(finished, tmp_path / "run")
    for path in run.rglob("*"):
        if path.is_file() and path.stat().st_size:
            content = bytearray(path.read_bytes())
            content[len(content) // 2] ^= 0x80
            path.write_bytes(content)
    edit(scene, checkpoint, run)
    assert results(run) == results(finished)
    assert {path.parent.name for path in run.rglob("*.damaged")} == {
        "cache",
        "checkpoints",
    }
    assert np.array_equal(read_finished(run).references[4], scene.source[4] // 2)


@pytest.mark.parametrize("change", [1, -1])
def test_a_folder_of_another_format_is_refused(
    change: int, finished: Path, checkpoint: Path, scene: Scene, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    record = json.loads((finished / SETTINGS_FILE).read_text())
    (run / SETTINGS_FILE).write_text(json.dumps({**record, "format": record["format"] + change}))
    for use in (lambda: edit(scene, checkpoint, run), lambda: read_finished(run)):
        with pytest.raises(InputError, match="this loraedit uses format"):
            use()


# ---- numbers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("factor", "word"), [(float("nan"), "loss is not a finite number"), (1e6, "exploded")])
def test_a_training_that_comes_apart_stops_at_its_last_good_state(
    checkpoint: Path, scene: Scene, tmp_path: Path, factor: float, word: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest, calls = loop._loss, []

    def spoilt(*arguments: object) -> torch.Tensor:
        calls.append(1)
        return honest(*arguments) * (factor if len(calls) == 7 else 1.0)  # type: ignore[arg-type]

    call = {"source": scene.source, "first_frame": scene.edited_first, "mask": scene.mask, "model": str(checkpoint)}
    with monkeypatch.context() as patched:
        patched.setattr(loop, "_loss", spoilt)
        with pytest.raises(InputError, match=word) as error:
            loraedit.edit(**call, steps=9, run=tmp_path / "run")  # type: ignore[arg-type]
    assert "Lower --lr" in str(error.value)
    (state,) = (tmp_path / "run/checkpoints").glob("*.safetensors")
    kept = try_load_tensors(state, ("losses",))
    assert kept is not None and len(kept["losses"]) == 6
    loraedit.edit(**call, steps=9, run=tmp_path / "run")  # type: ignore[arg-type]
    loraedit.edit(**call, steps=9, run=tmp_path / "whole")  # type: ignore[arg-type]
    assert results(tmp_path / "run") == results(tmp_path / "whole")
