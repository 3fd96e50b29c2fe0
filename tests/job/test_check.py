"""A request is checked against the model's card before a frame is decoded; a download comes after the checks."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scenes import Scene

from loraedit.errors import LoraEditError
from loraedit.families import hub
from loraedit.job.edits import EditObject
from loraedit.job.prepare import prepare
from loraedit.job.request import EditRequest
from loraedit.settings import make_settings
from loraedit.types import Clip
from loraedit.video import decoding, write_clip, write_image


@pytest.fixture
def files(tmp_path: Path, scene: Scene) -> Path:
    write_clip(tmp_path / "clip.mkv", Clip(scene.source, Fraction(5)))
    write_image(tmp_path / "edited.png", scene.edited_first)
    (tmp_path / "text.txt").write_text("not a picture")
    (tmp_path / "bad.safetensors").write_bytes(b"nothing")
    return tmp_path


@pytest.fixture
def nothing_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: object) -> Iterator[Any]:
        raise AssertionError("a frame was decoded")
        yield

    monkeypatch.setattr(decoding.Decoder, "_decoded", refuse)


def request(files: Path, changes: dict[str, Any]) -> EditRequest:
    """The request of an edit by default, with some fields changed; unknown names are settings."""
    fields = {"source": files / "clip.mkv", "first_frame": files / "edited.png", "mask": "5,7,20,25"}
    settings = {name: value for name, value in changes.items() if name not in EditRequest.__dataclass_fields__}
    given = {name: value for name, value in changes.items() if name not in settings}
    return EditRequest(**{**fields, **given}, settings=make_settings(settings))


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "mistyped model": ({"model": "no-such-model"}, "no-such-model"),
    "model that is not on this machine": ({"model": "nobody/nothing"}, "--download"),
    "rank below the prior's": ({"rank": 1}, "rank 16"),
    "no training, no prior": ({"steps": 0, "prior": False}, "0 steps"),
    "budget": ({"budget": "many"}, "budget"),
    "damaged LoRA": ({"extra_lora": ("bad.safetensors",)}, "safetensors"),
    "missing LoRA": ({"extra_lora": ("nowhere.safetensors",)}, "no LoRA file"),
    "extra LoRA for an expert that is not there": ({"extra_in_training": True}, "needs an --extra-lora"),
    "unknown tracker": ({"mask": None, "tracker": "eyes"}, "eyes"),
    "tracker beside a mask": ({"margin": 0.2}, "need an automatic mask"),
    "caption without a captioner": ({"prompt": "auto"}, "--captioner"),
    "device": ({"device": "toaster"}, "toaster"),
    "fp8 on a Mac": ({"device": "mps", "weights": "fp8"}, "--weights int8"),
    "mistyped attention": ({"attention": "flsh"}, "no attention backend 'flsh'"),
    "mistyped attention of training": ({"training_attention": "flsh"}, "no attention backend 'flsh'"),
    "attention that is not installed": ({"attention": "_native_npu"}, "'_native_npu' cannot be used"),
    "training attention not installed": ({"training_attention": "_native_xla"}, "'_native_xla' cannot be used"),
    "attention that is downloaded": ({"attention": "flash_hub"}, "download and run code"),
    "attention of training that is downloaded": ({"training_attention": "flash_hub"}, "download and run code"),
    "attention without gradients": ({"training_attention": "sage"}, "'sage' has no backward pass"),
    "attention of a build": ({"training_attention": "_sage_qk_int8_pv_fp16_cuda"}, "has no backward pass"),
    "attention of a call": ({"training_attention": "_flash_3"}, "has no backward pass"),
    "missing first frame": ({"first_frame": "nowhere.png"}, "nowhere.png"),
    "first frame that is no picture": ({"first_frame": "text.txt"}, "cannot be read as an image"),
    "missing reference": ({"references": {2: "nowhere.png"}}, "nowhere.png"),
    "reference for the first frame": ({"references": {0: "edited.png"}}, "frame 0"),
    "references without a LoRA": ({"references": {2: "edited.png"}, "lora": "none"}, "motion LoRA"),
    "missing mask": ({"mask": "nowhere.png"}, "no mask"),
    "mask of an object": ({"mask": None, "objects": [EditObject("a", "nowhere.mkv")]}, "no mask"),
    "missing clip": ({"source": "nowhere.mp4"}, "nowhere.mp4"),
    "clip that is none": ({"source": "text.txt"}, "cannot be read as a video"),
    "output of an unknown kind": ({"out": Path("out.avi")}, ".avi"),
}


@pytest.mark.usefixtures("nothing_decoded")
@pytest.mark.parametrize("name", REFUSED)
def test_a_mistake_is_refused_before_a_frame_is_decoded(
    name: str, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(files)
    changes, words = REFUSED[name]
    with pytest.raises(LoraEditError, match=words):
        prepare(request(files, changes))


@pytest.mark.usefixtures("nothing_decoded")
def test_a_good_request_decodes_the_clip(files: Path) -> None:
    with pytest.raises(AssertionError, match="a frame was decoded"):
        prepare(request(files, {}))


# ---- downloads -------------------------------------------------------------------------------------------------------


class Hub:
    """A Hub of one model: it gives small files and weights as they are asked for, and notes both."""

    def __init__(self, model: Path, cache: Path) -> None:
        self.model, self.cache, self.weights_fetched = model, cache, False

    def __call__(self, _model: str, patterns: Sequence[str]) -> Path:
        self.weights_fetched = any(pattern.startswith("transformer") for pattern in patterns)
        for path in self.model.rglob("*"):
            if path.is_file() and (self.weights_fetched or path.suffix != ".safetensors"):
                target = self.cache / path.relative_to(self.model)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, target)
        return self.cache


@pytest.fixture
def the_hub(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    made = Hub(checkpoint, tmp_path / "cache")
    monkeypatch.setattr(hub, "fetch_snapshot", made)
    return made


def test_a_download_is_a_phase_of_its_own_after_all_other_checks(files: Path, the_hub: Hub) -> None:
    seen: list[tuple[str, int, int, str]] = []
    job = prepare(request(files, {"model": "some/model", "download": True}), lambda *event: seen.append(event))
    assert seen[-2:] == [("download", 0, 1, "some/model"), ("download", 1, 1, "")]
    assert {phase for phase, *_ in seen[:-2]} == {"read"}
    assert the_hub.weights_fetched and job.card.folder == the_hub.cache


@pytest.mark.usefixtures("nothing_decoded")
def test_nothing_is_downloaded_for_a_request_that_is_refused(files: Path, the_hub: Hub) -> None:
    asked = {"model": "some/model", "download": True, "prior": True}
    with pytest.raises(LoraEditError, match="no prior LoRA"):
        prepare(request(files, asked))
    assert not the_hub.weights_fetched


def test_nothing_is_downloaded_for_inputs_that_do_not_fit_the_clip(files: Path, the_hub: Hub) -> None:
    asked = {"model": "some/model", "download": True, "references": {99: files / "edited.png"}}
    with pytest.raises(LoraEditError, match="99"):
        prepare(request(files, asked))
    assert not the_hub.weights_fetched


def test_what_is_there_is_not_downloaded_again(files: Path, the_hub: Hub) -> None:
    asked = request(files, {"model": "some/model", "download": True})
    first = prepare(asked)
    the_hub.weights_fetched, seen = False, list[str]()
    second = prepare(asked, lambda phase, *_: seen.append(phase))
    assert not the_hub.weights_fetched and "download" not in seen
    assert np.array_equal(np.asarray(first.edit_mask), np.asarray(second.edit_mask))
