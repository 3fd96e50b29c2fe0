"""Masks made from an edit alone, and the command that makes masks."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import forked
import numpy as np
import pytest
from squares import HEIGHT, WIDTH, ground, moving_square, overlap, square_at, write_mask_inputs

import loraedit
from benchmarks.propagation.cases import make_case
from loraedit.errors import InputError, LoraEditError
from loraedit.tracking import changed_region, mask_from_edit
from loraedit.types import Clip, Frames, Image, Mask
from loraedit.video import read_clip


def made_from(frames: Frames, edits: dict[int, Image]) -> Mask:
    return np.stack(list(mask_from_edit(Clip(frames, Fraction(10)), edits)))


def picture() -> Image:
    return np.asarray(cv2.resize(ground(3), (240, 144), interpolation=cv2.INTER_CUBIC))


def edited(image: Image) -> Image:
    """Another colour in the box from 90, 50 to 150, 100."""
    changed = image.copy()
    changed[50:100, 90:150] = changed[50:100, 90:150] // 3 + np.array([20, 140, 40], np.uint8)
    return changed


EDIT = np.zeros((144, 240), bool)
EDIT[50:100, 90:150] = True


def compressed(image: Image) -> Image:
    return np.asarray(cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 60])[1], cv2.IMREAD_COLOR))


def noisy(image: Image) -> Image:
    noise = np.random.default_rng(5).normal(0, 6, image.shape)
    return np.rint(image + noise).clip(0, 255).astype(np.uint8)


def warmer(image: Image) -> Image:
    return np.rint(image * np.array([1.06, 1.0, 0.95]) + (4, 0, -3)).clip(0, 255).astype(np.uint8)


def shifted(image: Image, dx: float = 3, dy: float = -2) -> Image:
    move = np.array([[1, 0, dx], [0, 1, dy]], np.float32)
    return np.asarray(cv2.warpAffine(image, move, (240, 144), borderMode=cv2.BORDER_REPLICATE))


def by_half_a_pixel(image: Image) -> Image:
    return shifted(image, 1.5, 0.4)


def all_at_once(image: Image) -> Image:
    return compressed(warmer(shifted(image)))


FLAWS = [lambda image: image, compressed, noisy, warmer, shifted, by_half_a_pixel, all_at_once]


@pytest.mark.parametrize("flaw", FLAWS)
def test_the_edit_is_found_whatever_else_the_editor_did(flaw: Callable[[Image], Image]) -> None:
    region = changed_region(picture(), flaw(edited(picture())))
    assert region[EDIT].mean() > 0.97
    assert region[~EDIT].mean() < 0.06


@pytest.mark.parametrize("flaw", [compressed, noisy, warmer, shifted])
def test_flaws_alone_are_no_edit(flaw: Callable[[Image], Image]) -> None:
    with pytest.raises(InputError, match="only by noise"):
        changed_region(picture(), flaw(picture()))


@pytest.mark.parametrize(("dx", "dy"), [(3, 3), (-3, 0)])
def test_a_shift_of_a_large_frame_is_no_edit_and_hides_none(dx: int, dy: int) -> None:
    """Frames are compared at a smaller size, where a shift by whole pixels is one by fractions."""
    rough = np.random.default_rng(9).integers(0, 256, (60, 80, 3), np.uint8)
    large = np.asarray(cv2.resize(rough, (720, 540), interpolation=cv2.INTER_NEAREST))
    look = large.copy()
    look[200:300, 300:440] = 255 - look[200:300, 300:440]
    moved, moved_look = (np.roll(image, (dy, dx), (0, 1)) for image in (large, look))
    with pytest.raises(InputError, match="only by noise"):
        changed_region(large, moved)
    region = changed_region(large, moved_look)
    assert region[200:300, 300:440].mean() > 0.97 and region.mean() < 1.2 * 100 * 140 / region.size


def test_a_faint_edit_of_an_exact_copy_is_found_whole() -> None:
    faint = picture()
    faint[EDIT] += 6
    assert np.array_equal(changed_region(picture(), faint) & EDIT, EDIT)


@pytest.mark.parametrize("restyle", [lambda image: 255 - image, lambda image: image[:, ::-1] // 2])
def test_a_restyle_is_refused_with_what_to_do(restyle: Callable[[Image], Image]) -> None:
    with pytest.raises(InputError, match=r"nearly everywhere.* --mask"):
        changed_region(picture(), np.ascontiguousarray(restyle(picture())))


def test_the_mask_follows_the_square_with_room_round_it() -> None:
    frames, truth = moving_square([8 + 4 * index for index in range(9)])
    look = frames[0].copy()
    look[truth[0]] = 255 - look[truth[0]]
    mask = made_from(frames, {0: look})
    assert mask[truth].mean() > 0.99
    assert mask.sum() < 4 * truth.sum()


def test_what_is_added_beside_a_thing_moves_with_the_thing() -> None:
    frames, _ = moving_square([8 + 5 * index for index in range(9)])
    look = frames[0].copy()
    look[12:25, 12:24] = (250, 250, 0)  # a hat, on the background alone
    mask = made_from(frames, {0: look})
    for index in range(9):
        assert mask[index, 12:25, 12 + 5 * index : 24 + 5 * index].mean() > 0.95
    assert not mask[8, :, :30].any()


def test_a_reference_adds_what_it_changes() -> None:
    frames, truth = moving_square([8 + 3 * index for index in range(9)])
    first, last = frames[0].copy(), frames[8].copy()
    first[truth[0]] = 255 - first[truth[0]]
    last[4:18, 96:112] = (0, 200, 250)
    mask = made_from(frames, {0: first, 8: last})
    assert mask[8, 4:18, 96:112].all() and mask[truth].mean() > 0.99
    with pytest.raises(InputError, match="The reference for frame 8 is identical"):
        made_from(frames, {0: first, 8: frames[8]})


@pytest.mark.parametrize(("kind", "number"), [("outline", 0), ("unseen", 1)])
def test_on_a_benchmark_case_the_mask_covers_what_truly_changes(kind: str, number: int) -> None:
    case = make_case(kind, number, frames=9)
    mask = made_from(case.source, {0: case.truth[0]})
    changed = (case.source != case.truth).any(-1)
    assert mask[changed].mean() > 0.98
    assert mask.sum() < 2.5 * case.mask.sum()


@pytest.mark.parametrize("setting", [{"margin": 0.3}, {"tracker": "sam2", "tracker_model": "nowhere"}])
def test_how_a_mask_is_made_is_not_said_of_a_mask_that_is_given(setting: dict[str, Any]) -> None:
    frames, truth = moving_square([8, 12])
    with pytest.raises(InputError, match="--mask auto"):
        loraedit.edit(frames, 255 - frames[0], truth, **setting)
    with pytest.raises(LoraEditError, match=r"less than or equal to 10|not a checkpoint"):
        loraedit.edit(frames, 255 - frames[0], **{**setting, **({"margin": 99.0} if "margin" in setting else {})})


# loraedit mask


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_mask_inputs(tmp_path)


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return forked.run(["mask", *arguments], folder)


MADE = {
    "edit": ("mask", ["--from-edit", "edited.png"]),
    "hints": ("mask.mkv", ["--point", "0:18,36", "--point", "0:100,10:out", "--box", "2:14,23,42,51", "--tight"]),
    "seed": ("m.v1", ["--seed-mask", "0=seed.png", "--margin", "0.5"]),
}


@pytest.mark.parametrize("name", MADE)
def test_a_mask_is_written_with_a_preview(folder: Path, name: str) -> None:
    out, options = MADE[name]
    done = run(folder, "source.mkv", *options, "--out", out)
    assert done.returncode == 0, done.stderr
    mask = read_clip(folder / out).frames
    truth = np.stack([square_at(8 + 4 * index) for index in range(5)])
    assert np.isin(mask, (0, 255)).all() and mask.shape == (5, HEIGHT, WIDTH, 3)
    if name == "hints":
        assert min(overlap(mask[..., 0] > 0, truth)) > 0.7
    else:
        assert (mask[truth] > 0).mean() > 0.98 and (mask > 0).mean() < 0.5
    previews = [path.name for path in folder.glob("*-preview.mp4")]
    assert previews == [f"{'mask' if out == 'mask.mkv' else out}-preview.mp4"]
    assert len(read_clip(folder / previews[0]).frames) == 5


REFUSED = {
    "nothing asked": ([], "nothing to make a mask from"),
    "no edit": (["--from-edit", "same.png"], "identical to the source"),
    "restyled": (["--from-edit", "restyled.png"], "differs from the source nearly everywhere"),
    "shifted": (["--from-edit", "shifted.png"], "only by noise"),
    "edit of another size": (["--from-edit", "small.png"], "20x20"),
    "missing edit": (["--from-edit", "nowhere.png"], "nowhere.png"),
    "missing seed": (["--seed-mask", "0=nowhere.png"], "nowhere.png"),
    "malformed point": (["--point", "3,4"], "K:x,y"),
    "point outside": (["--point", "0:120,4"], "leaves the frame"),
    "point too late": (["--point", "5:4,4"], "no frame 5"),
    "points out alone": (["--point", "0:4,4:out"], "off the object"),
    "malformed stroke": (["--stroke", "0:4,4"], "K:x,y,x,y"),
    "stroke outside": (["--stroke", "0:4,4,200,4"], "leaves the frame"),
    "words alone": (["--text", "a dog"], "does not read text"),
    "unknown tracker": (["--point", "0:4,4", "--tracker", "magic"], "Unknown tracker 'magic'"),
    "tracker without weights": (["--point", "0:4,4", "--tracker", "sam2"], "--tracker-model"),
    "no checkpoint": (["--point", "0:4,4", "--tracker", "sam2", "--tracker-model", "."], "not a checkpoint"),
    "unknown shape": (["--point", "0:4,4", "--shape", "star"], "the shape 'star'"),
    "shape of a tight mask": (["--point", "0:4,4", "--tight", "--shape", "hull"], "no other shape"),
    "negative smoothing": (["--point", "0:4,4", "--smooth", "-1"], "--smooth -1"),
    "override too late": (["--point", "0:4,4", "--override", "7=seed.png"], "no frame 7"),
    "malformed box": (["--box", "0:1,2,3"], "K:x0,y0,x1,y1"),
    "empty box": (["--box", "0:9,9,9,20"], "empty"),
    "box outside": (["--box", "0:9,9,20,99"], "leaves the frame"),
    "two edits": (["--from-edit", "edited.png", "--reference", "0=seed.png"], "two edits"),
    "reference too late": (["--reference", "9=edited.png"], "no frame 9"),
    "margin of a tight mask": (["--from-edit", "edited.png", "--tight", "--margin", "0.1"], "no margin"),
    "negative margin": (["--from-edit", "edited.png", "--margin", "-1"], "margin of -1"),
    "lossy output": (["--from-edit", "edited.png", "--out", "m.mp4"], "without loss"),
    "output over the source": (["--from-edit", "edited.png", "--out", "source.mkv"], "the input itself"),
}


def test_bad_input_to_mask_is_refused_in_one_sentence_with_nothing_left(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In this process, as eighteen starts of Python would be slow."""
    from loraedit.cli.main import main

    monkeypatch.chdir(folder)
    before = sorted(folder.rglob("*"))
    for name, (options, words) in REFUSED.items():
        out = [] if "--out" in options else ["--out", "mask"]
        monkeypatch.setattr(sys, "argv", ["loraedit", "mask", "source.mkv", *options, *out])
        with pytest.raises(SystemExit) as stopped:
            main()
        said = capsys.readouterr()
        assert stopped.value.code == 2 and words in said.err, (name, said.err)
        assert len(said.err.strip().splitlines()) == 1 and not said.out, name
        assert sorted(folder.rglob("*")) == before, name


def test_an_edit_without_a_mask_says_the_same(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from loraedit.cli.main import main

    monkeypatch.chdir(folder)
    before = sorted(folder.rglob("*"))
    for picture in ("same", "restyled", "shifted"):
        monkeypatch.setattr(
            sys, "argv", ["loraedit", "edit", "source.mkv", "--first-frame", f"{picture}.png", "--out", "o.mkv"]
        )
        with pytest.raises(SystemExit) as stopped:
            main()
        said = capsys.readouterr().err.strip()
        expected = REFUSED["no edit" if picture == "same" else picture][1]
        assert stopped.value.code == 2 and expected in said and len(said.splitlines()) == 1, said
        assert sorted(folder.rglob("*")) == before
