"""Claims of docs/reliability.md: full disks, lost folders, memory that runs out, and files that nobody should trust."""

from __future__ import annotations

import ast
import ctypes
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from mutants import pickled, zip_slip
from scenes import Scene, make_scene

import loraedit
from loraedit.cli import main as cli
from loraedit.editing import generate as scenes
from loraedit.errors import InputError, ModelError
from loraedit.planning import save_more
from loraedit.settings import EditSettings, Resources
from loraedit.training import loop
from loraedit.types import Clip
from loraedit.video import DEFAULT_FPS, write_clip, write_image

SRC = Path(loraedit.__file__).parent
PICKLING = {"pickle", "cPickle", "dill", "joblib", "shelve", "marshal", "cloudpickle", "tarfile"}
UNSAFE = {"torch.load", "eval", "exec", "np.load", "numpy.load", "shutil.unpack_archive"}


def edit(scene: Scene, model: Path, run: Path, **settings: object) -> loraedit.EditResult:
    return loraedit.edit(scene.source, scene.edited_first, scene.mask, model=str(model), steps=2, run=run, **settings)


def results(run: Path) -> dict[str, bytes]:
    """Reads the frames and LoRAs of a run."""
    return {path.name: path.read_bytes() for name in ("frames", "lora") for path in sorted((run / name).iterdir())}


@pytest.fixture(scope="module")
def finished(finished_run: Path) -> Path:
    return finished_run


# ---- memory that runs out --------------------------------------------------------------------------------------------


def test_out_of_memory_goes_on_one_level_lower_with_a_note(
    checkpoint: Path, scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    edit(scene, checkpoint, tmp_path / "whole")
    honest, calls = loop._loss, []

    def short_of_memory(*arguments: object) -> torch.Tensor:
        calls.append(1)
        if len(calls) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return honest(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(loop, "_loss", short_of_memory)
    result = edit(scene, checkpoint, tmp_path / "run")
    assert result.notes[-1] == "The device's memory ran out (train), so the run went on with checkpointing."
    assert json.loads((tmp_path / "run/settings.json").read_text())["resources"]["checkpointing"] is True
    assert results(tmp_path / "run") == results(tmp_path / "whole")


def test_out_of_memory_at_the_lowest_level_is_raised(
    checkpoint: Path, scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Resources] = []

    def never(_: object, resources: Resources, *__: object) -> None:
        seen.append(resources)
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(loop, "place", never)
    with pytest.raises(torch.OutOfMemoryError):
        edit(scene, checkpoint, tmp_path / "run")
    assert len(seen) == 6 and len(set(map(str, seen))) == 6
    assert seen[-1].swap_blocks and seen[-1].tile_vae


def test_the_next_means_save_where_memory_ran_out() -> None:
    partly = Resources(checkpointing=True, swap_blocks=1)
    assert save_more(partly, False, 2, EditSettings().resources) == Resources(checkpointing=True, swap_blocks=2)
    keep = EditSettings(checkpointing=False, swap_blocks=0, offload_checkpoints=False).resources
    assert save_more(Resources(), True, 2, EditSettings().resources) == Resources(offload_encoders=True)
    assert save_more(Resources(), False, 2, keep) == Resources(offload_encoders=True)
    assert save_more(Resources(offload_encoders=True, tile_vae=True), True, 2, keep) is None


def test_what_is_refused_before_work_leaves_no_run_folder(checkpoint: Path, scene: Scene, tmp_path: Path) -> None:
    for settings in ({"vram": "x"}, {"store": str(Path(__file__))}, {"device": "cuda:99"}):
        with pytest.raises(InputError):
            edit(scene, checkpoint, tmp_path / "run", **settings)
        assert not (tmp_path / "run").exists()


# ---- disks and folders -----------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A separate file system of 3 MB."""
    libc, place = ctypes.CDLL(None, use_errno=True), tmp_path / "disk"
    place.mkdir()
    if not hasattr(libc, "mount") or libc.mount(b"tmpfs", os.fsencode(place), b"tmpfs", 0, b"size=3m") != 0:
        pytest.skip(f"no file system can be mounted here: {os.strerror(ctypes.get_errno())}")
    yield place
    libc.umount2(os.fsencode(place), 2)


def ended(arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Runs a command line and returns its exit code and standard error."""
    monkeypatch.setattr("sys.argv", ["loraedit", *arguments])
    with pytest.raises(SystemExit) as end:
        cli.main()
    return int(end.value.code or 0), capsys.readouterr().err


@pytest.fixture(scope="module")
def command(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The arguments of an edit from files, without its outputs."""
    scene, folder = make_scene(), tmp_path_factory.mktemp("inputs")
    write_clip(folder / "clip.mkv", Clip(scene.source, DEFAULT_FPS))
    write_image(folder / "edited.png", scene.edited_first)
    return [
        "edit", str(folder / "clip.mkv"), f"--first-frame={folder / 'edited.png'}", "--mask=2,2,30,30",
        f"--model={checkpoint}", "--steps=1", "--sampling-steps=1",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def whole(command: list[str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The results of the command without any disturbance."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["loraedit", *command, f"--out={folder / 'out.mkv'}", "--json"])
        with pytest.raises(SystemExit):
            cli.main()
    return results(folder / "out-run")


def test_a_full_disk_is_reported_and_the_run_continues_once_there_is_room(
    command: list[str], whole: dict[str, bytes], small_disk: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    ballast, content = small_disk / "of the user", bytes(3 * 2**20 - 60_000)
    ballast.write_bytes(content)
    line = [*command, f"--out={small_disk / 'out.mkv'}"]
    code, said = ended(line, monkeypatch, capsys)
    assert code == 2 and "No space left on device" in said and "Traceback" not in said
    assert not list(small_disk.rglob("*.partial")) and not (small_disk / "out.mkv").exists()
    assert ballast.read_bytes() == content
    ballast.unlink()
    assert ended(line, monkeypatch, capsys)[0] == 0
    assert results(small_disk / "out-run") == whole


def test_a_folder_that_can_only_be_read_is_refused_before_any_work(
    command: list[str], small_disk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ctypes.CDLL(None).mount(b"tmpfs", os.fsencode(small_disk), b"tmpfs", 33, None) == 0  # remount, read-only
    code, said = ended([*command, f"--out={small_disk / 'out.mkv'}"], monkeypatch, capsys)
    assert code == 2 and "Read-only file system" in said and len(said.splitlines()) == 1


@pytest.mark.parametrize("stage", ["keep_pieces", "decode_segment"])
def test_a_run_folder_that_is_deleted_during_the_run_is_reported_and_created_again(
    command: list[str], whole: dict[str, bytes], stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    honest = getattr(scenes, stage)

    def deleted_then(*arguments: object) -> object:
        result = honest(*arguments)
        shutil.rmtree(tmp_path / "out-run")
        return result

    line = [*command, f"--out={tmp_path / 'out.mkv'}"]
    with monkeypatch.context() as patched:
        patched.setattr(scenes, stage, deleted_then)
        code, said = ended(line, patched, capsys)
    assert code == 2 and said.splitlines()[-1].startswith("loraedit: ") and "out-run" in said
    assert not (tmp_path / "out.mkv").exists()
    assert ended(line, monkeypatch, capsys)[0] == 0
    assert results(tmp_path / "out-run") == whole


# ---- files that nobody should trust ----------------------------------------------------------------------------------


def test_no_code_of_ours_unpickles_or_unpacks_or_runs_what_it_reads() -> None:
    found = []
    for path in SRC.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            place = f"{path.relative_to(SRC)}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [each.name for each in node.names] + [getattr(node, "module", "") or ""]
                found += [f"{place} {name}" for name in names if name.split(".")[0] in PICKLING]
            elif isinstance(node, ast.Call):
                call, options = ast.unparse(node.func), {each.arg: ast.unparse(each.value) for each in node.keywords}
                unpacks = call.endswith("ZipFile") and "'w'" not in [ast.unparse(each) for each in node.args]
                trusts = {options.get(name, "False") for name in ("trust_remote_code", "allow_pickle")} != {"False"}
                if call in UNSAFE or unpacks or trusts:
                    found.append(f"{place} {call}")
    assert found == []


HOSTILE = {
    "lying offsets": lambda whole: whole.replace(b'"data_offsets":[0,', b'"data_offsets":[9,', 1),
    "huge header": lambda whole: (2**62).to_bytes(8, "little") + whole[8:],
    "pickle": lambda _: pickled(),
    "zip": lambda _: zip_slip(),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_weights_are_refused_wherever_they_are_given(
    kind: str, finished: Path, checkpoint: Path, scene: Scene, tmp_path: Path
) -> None:
    from loraedit.lora.export import convert, describe

    whole = next((finished / "lora").iterdir()).read_bytes()
    bad = tmp_path / "lora.safetensors"
    bad.write_bytes(HOSTILE[kind](whole))
    model = shutil.copytree(checkpoint, tmp_path / "model")
    weights = next((model / "transformer").glob("*.safetensors"))
    weights.write_bytes(HOSTILE[kind](weights.read_bytes()))
    before = sorted(tmp_path.rglob("*"))
    uses = {
        "shown": lambda: describe(bad),
        "converted": lambda: convert(bad, tmp_path / "out.safetensors", "musubi"),
        "extra": lambda: edit(scene, checkpoint, tmp_path / "run", extra_lora=(str(bad),)),
        "transformer": lambda: edit(scene, checkpoint, tmp_path / "run", transformer=str(bad)),
        "checkpoint": lambda: edit(scene, model, tmp_path / "run"),
    }
    for use in uses.values():
        with pytest.raises(ModelError):
            use()
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    "part", [["torch", "load"], ["evil", "Transformer"], ["diffusers", "../x"], ["os", "system"], "x", ["a"]]
)
def test_a_model_index_that_names_foreign_code_is_refused(checkpoint: Path, tmp_path: Path, part: object) -> None:
    from loraedit.families.card import read_card

    model = shutil.copytree(checkpoint, tmp_path / "model")
    index = json.loads((model / "model_index.json").read_text())
    (model / "model_index.json").write_text(json.dumps({**index, "transformer": part}))
    (model / "evil.py").write_text("raise SystemExit(77)")
    if part == "x":  # a text names no class, and is not looked at
        read_card(model)
        return
    with pytest.raises(ModelError):
        read_card(model)


@pytest.mark.parametrize("suffix", [".zip", ".png"])
def test_an_archive_is_no_input(
    suffix: str, command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    archive = tmp_path / f"archive{suffix}"
    archive.write_bytes(zip_slip("../escaped"))
    before = sorted(tmp_path.parent.glob("*"))
    for place in ("source", "mask", "first-frame", "model", "extra-lora"):
        line = [*command, f"--{place}={archive}", f"--out={tmp_path / 'out.mkv'}"]
        if place == "source":
            line = ["edit", str(archive), *command[2:], f"--out={tmp_path / 'out.mkv'}"]
        assert ended(line, monkeypatch, capsys)[0] == 2, place
    assert ended(["batch", str(archive)], monkeypatch, capsys)[0] == 2
    assert sorted(tmp_path.parent.glob("*")) == before


# ---- keys and formats ------------------------------------------------------------------------------------------------


def test_unknown_keys_are_refused_in_every_file_of_settings(checkpoint: Path, tmp_path: Path) -> None:
    from loraedit.batch.jobs import read_jobs
    from loraedit.families.card import read_card
    from loraedit.settings import make_settings

    with pytest.raises(InputError, match="no setting 'stepz'"):
        make_settings({"stepz": 1})
    model = shutil.copytree(checkpoint, tmp_path / "model")
    card = json.loads((model / "loraedit.json").read_text())
    for content in ({**card, "stepz": 1}, {**card, "recipe": {**card["recipe"], "stepz": 1}}):
        (model / "loraedit.json").write_text(json.dumps(content))
        with pytest.raises(ModelError, match="stepz"):
            read_card(model)
    for text in ("stepz = 1", "[defaults]\nstepz = 1", "[[jobs]]\nname = 'a'\nstepz = 1"):
        (tmp_path / "jobs.toml").write_text(text)
        with pytest.raises(InputError, match="stepz"):
            read_jobs(tmp_path / "jobs.toml")


# ---- repeating -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", ["model", "paper"])
def test_a_run_of_several_objects_is_repeated_to_the_byte(
    recipe: str, checkpoint: Path, scene: Scene, tmp_path: Path
) -> None:
    from loraedit.editing.repeat import plan_repetition

    corner, edited = np.zeros(scene.mask.shape[1:], bool), scene.edited_first.copy()
    corner[26:, 30:], edited[26:, 30:] = True, 255
    objects = [
        {"name": "z \U0001f600/..", "mask": scene.mask, "references": {4: scene.source[4] // 2}, "prompt": "a square"},
        {"name": "a", "mask": corner, "references": {3: scene.source[3] // 3}, "prompt": "a corner"},
    ]
    loraedit.edit(
        scene.source, edited, objects=objects, references={2: scene.source[2] // 4}, model=str(checkpoint), steps=2,
        run=tmp_path / "run", prompt="night", dilate_px=1, recipe=recipe,
    )  # fmt: skip
    repetition = plan_repetition(tmp_path / "run", None, tmp_path / "again")
    _, same = repetition.carry_out(lambda *_: None)
    assert same and repetition.differences == []
    assert results(tmp_path / "again") == results(tmp_path / "run")
    for name in ("settings.json", "result.json", "objects/1/mask/00000.png", "objects/0/references/00004.png"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "run" / name).read_bytes()
    mask = tmp_path / "run/objects/0/mask/00001.png"
    mask.write_bytes((tmp_path / "run/objects/1/mask/00001.png").read_bytes())
    with pytest.raises(InputError, match="objects/0 is not what the edit was made from"):
        plan_repetition(tmp_path / "run", None, tmp_path / "third")
