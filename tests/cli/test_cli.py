"""Bad input is refused with one sentence and exit code 2, and nothing is written."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import forked
import numpy as np
import pytest
from scenes import Scene, make_scene

from loraedit.types import Clip
from loraedit.video import read_clip, write_clip, write_image

Options = dict[str, str | list[str]]


def black_and_white(mask: np.ndarray) -> np.ndarray:
    return np.repeat(mask[..., None] * np.uint8(255), 3, -1)


@pytest.fixture
def files(tmp_path: Path, scene: Scene) -> Path:
    write_clip(tmp_path / "source.mkv", Clip(scene.source, Fraction(10)))
    write_clip(tmp_path / "mask.mkv", Clip(black_and_white(scene.mask), Fraction(10)))
    write_image(tmp_path / "edited.png", scene.edited_first)
    return tmp_path


def run(folder: Path, **changes: str | list[str] | None) -> subprocess.CompletedProcess[str]:
    options: dict[str, str | list[str] | None] = {
        "source": "source.mkv", "first-frame": "edited.png", "mask": "mask.mkv", "out": "out.mp4", **changes
    }  # fmt: skip
    arguments = [str(options.pop("source"))]
    for name, value in options.items():
        for one in value if isinstance(value, list) else [value]:
            arguments += [] if one is None else [f"--{name}", one] if one else [f"--{name}"]
    return forked.run(["edit", *arguments], folder)


def make_audio(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        for packet in (*stream.encode(frame), *stream.encode(None)):
            container.mux(packet)


def a_text_file(folder: Path) -> None:
    (folder / "bad.mp4").write_text("not a video")


def an_audio_file(folder: Path) -> None:
    make_audio(folder / "bad.wav")


def a_video_without_frames(folder: Path) -> None:
    with av.open(str(folder / "bad.avi"), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        container.start_encoding()


def no_frames(folder: Path) -> None:
    (folder / "bad").mkdir()


def a_smaller_frame(folder: Path) -> None:
    write_image(folder / "bad.png", np.zeros((20, 20, 3), np.uint8))


def a_restyled_frame(folder: Path) -> None:
    write_image(folder / "bad.png", 255 - make_scene().source[0])


def a_shorter_mask(folder: Path) -> None:
    write_clip(folder / "bad.mkv", Clip(black_and_white(make_scene(3).mask), Fraction(10)))


def a_black_mask(folder: Path) -> None:
    write_image(folder / "bad.png", np.zeros((36, 44, 3), np.uint8))


def a_white_mask(folder: Path) -> None:
    write_image(folder / "bad.png", np.full((36, 44, 3), 255, np.uint8))


def a_text_to_video_checkpoint(folder: Path) -> None:
    (folder / "bad").mkdir()
    (folder / "bad/model_index.json").write_text(json.dumps({"_class_name": "WanPipeline"}))


def a_file_in_the_way(folder: Path) -> None:
    (folder / "file").write_text("")


def nothing(folder: Path) -> None:
    pass


REFUSED: dict[str, tuple[Callable[[Path], None], Options, str]] = {
    "missing source": (nothing, {"source": "nowhere.mp4"}, "nowhere.mp4"),
    "missing first frame": (nothing, {"first-frame": "nowhere.png"}, "nowhere.png"),
    "missing mask": (nothing, {"mask": "nowhere.png"}, "nowhere.png"),
    "unreadable video": (a_text_file, {"source": "bad.mp4"}, "bad.mp4"),
    "audio file": (an_audio_file, {"source": "bad.wav"}, "no picture"),
    "video without frames": (a_video_without_frames, {"source": "bad.avi"}, "bad.avi"),
    "empty folder": (no_frames, {"source": "bad"}, "bad"),
    "unreadable first frame": (a_text_file, {"first-frame": "bad.mp4"}, "bad.mp4"),
    "first frame of another size": (a_smaller_frame, {"first-frame": "bad.png"}, "--fit"),
    "mask of another size": (a_smaller_frame, {"mask": "bad.png"}, "20x20"),
    "mask of another length": (a_shorter_mask, {"mask": "bad.mkv"}, "3 frames"),
    "empty mask": (a_black_mask, {"mask": "bad.png"}, "black everywhere"),
    "mask everywhere": (a_white_mask, {"mask": "bad.png"}, "white everywhere"),
    "box outside": (nothing, {"mask": "0,0,99,99"}, "leaves the frame"),
    "mask beside the edit": (nothing, {"mask": "30,25,44,36"}, "inside the mask"),
    "mask grown everywhere": (nothing, {"dilate-px": "100"}, "Lower --dilate-px"),
    "no mask, and a restyle": (a_restyled_frame, {"mask": None, "first-frame": "bad.png"}, "--mask"),
    "no mask, and no edit": (nothing, {"mask": None, "first-frame": "same.png"}, "identical to the source"),
    "no mask, and a reference that is no edit": (nothing, {"mask": None, "reference": "0=same.png"}, "frame 0"),
    "reference too late": (nothing, {"reference": "5=edited.png"}, "frame 5"),
    "reference for frame 0": (nothing, {"reference": "0=edited.png"}, "frame 0"),
    "negative reference": (nothing, {"reference": "-1=edited.png"}, "frame -1"),
    "reference twice": (nothing, {"reference": ["2=edited.png", "2=edited.png"]}, "two references"),
    "object beside a mask": (nothing, {"object": "a:mask=mask.mkv"}, "Leave --mask out"),
    "object twice": (nothing, {"mask": None, "object": ["a:mask=mask.mkv", "a:mask=mask.mkv"]}, "two objects 'a'"),
    "object without a mask": (nothing, {"mask": None, "object": "a:prompt=red, and blue"}, "no mask"),
    "object of an unknown key": (nothing, {"mask": None, "object": "a:mask=mask.mkv,size=3"}, "'size'"),
    "malformed object": (nothing, {"mask": None, "object": "mask.mkv"}, "not of the form"),
    "object with an automatic mask": (nothing, {"mask": None, "object": "a:mask=auto"}, "'loraedit mask'"),
    "reference outside its object": (
        nothing,
        {"mask": None, "object": "a:mask=30,25,44,36,reference=2=same.png"},
        "changes nothing inside",
    ),
    "malformed reference": (nothing, {"reference": "edited.png"}, "K=EDITED_K.png"),
    "checkpoint that is not I2V": (a_text_to_video_checkpoint, {"model": "bad"}, "not an image-to-video"),
    "folder that is no checkpoint": (no_frames, {"model": "bad"}, "model_index.json"),
    "output under a file": (a_file_in_the_way, {"out": "file/out.mp4"}, "file"),
    "output that is the source": (nothing, {"out": "source.mkv"}, "the input itself"),
    "output of an unknown kind": (nothing, {"out": "out.avi"}, ".avi"),
    "run folder that is a file": (a_file_in_the_way, {"run": "file"}, "run folder"),
    "output above the run folder": (nothing, {"out": "res", "run": "res/run"}, "lies in the output"),
    "output over the mask": (nothing, {"out": "mask.mkv"}, "the input itself"),
    "no output name": (nothing, {"out": "./"}, "no name"),
    "name too long": (nothing, {"source": "x" * 300 + ".mp4"}, "too long"),
    "unknown mode": (nothing, {"lora": "magic"}, "lora"),
    "infinite guidance": (nothing, {"guidance": "inf"}, "guidance"),
    "rate that is no number": (nothing, {"lr": "nan"}, "lr"),
    "huge box": (nothing, {"mask": "0,0,99999999999999999999,9"}, "mask"),
    "no value": (nothing, {"steps": "many"}, "steps"),
    "negative steps": (nothing, {"steps": "-3"}, "steps"),
    "unknown device": (nothing, {"device": "toaster"}, "toaster"),
    "unedited first frame": (nothing, {"first-frame": "same.png"}, "equals the source"),
}


USAGE = {"no value"}
"""Refused by the option parser, which shows the usage above its sentence."""


@pytest.mark.parametrize("name", REFUSED)
def test_bad_input_is_refused_in_one_sentence_with_nothing_left(files: Path, name: str, scene: Scene) -> None:
    prepare, options, words = REFUSED[name]
    write_image(files / "same.png", scene.source[0])
    prepare(files)
    before = sorted(files.rglob("*"))
    done = run(files, **options)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert name in USAGE or len(done.stderr.strip().splitlines()) == 1
    assert sorted(files.rglob("*")) == before


def test_a_refusal_does_not_load_torch(files: Path) -> None:
    code = (
        "import sys, loraedit\n"
        "try: loraedit.edit('source.mkv', 'edited.png', 'nowhere.png')\n"
        "except loraedit.InputError: sys.exit(3 if 'torch' in sys.modules else 0)\n"
        "sys.exit(4)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=files, check=False).returncode == 0


def test_the_frames_of_an_earlier_run_are_not_overwritten(files: Path, scene: Scene) -> None:
    write_clip(files / "e-run/frames", Clip(scene.source, Fraction(10)))
    done = run(files, source="e-run/frames", out="e.mp4")
    assert done.returncode == 2
    assert "the input itself" in done.stderr
    assert np.array_equal(read_clip(files / "e-run/frames").frames, scene.source)


def test_a_frame_of_another_size_is_fitted_when_asked(files: Path, checkpoint: Path) -> None:
    write_image(files / "small.png", np.full((18, 22, 3), 90, np.uint8))
    done = run(files, **{"first-frame": "small.png", "fit": "", "model": str(checkpoint), "steps": "1", "json": ""})
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["outside_exact"] is True
    assert Path(files / summary["out"]).exists()
    named = {"out", "frames", "sheet", "loras", "loss_curve", "run", "wall_seconds", "loss_first", "loss_last"}
    assert named <= set(summary)
    assert summary["wall_seconds"] >= sum(summary["phase_seconds"].values()) - 0.1


def test_without_a_mask_one_is_made_from_the_edit(files: Path, checkpoint: Path, scene: Scene) -> None:
    options = {"mask": None, "model": str(checkpoint), "steps": "1", "run": "run", "json": ""}
    done = run(files, **options)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["outside_exact"] is True
    mask = read_clip(files / "run/mask").frames[..., 0] > 127
    changed = (scene.source[0] != scene.edited_first).any(-1)
    assert all(mask[index][np.roll(changed, 2 * index, 1)].all() for index in range(5))
    assert mask.mean() < 0.6
    again = run(files, **options, out="again.mp4")
    assert "train motion" in json.loads(again.stdout)["reused"]


def test_the_version_is_shown() -> None:
    done = subprocess.run([sys.executable, "-m", "loraedit", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("loraedit 0.")
