"""Stills and folders of stills keep every bit of 8 or 16, opacity and orientation."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from clips import gradient, noise, noisy_clip, save_png
from PIL import Image

from loraedit import video
from loraedit.errors import InputError
from loraedit.video.pixels import Layout, conform, narrow, to_rgb, widen


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("channels", [3, 4])
def test_images_of_16_bits_are_read_exactly(tmp_path: Path, suffix: str, channels: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 1 << 16, (5, 7, channels), np.uint16)
    swap = cv2.COLOR_RGB2BGR if channels == 3 else cv2.COLOR_RGBA2BGRA
    cv2.imwrite(str(tmp_path / f"a{suffix}"), cv2.cvtColor(pixels, swap))
    footage = video.open_footage(tmp_path / f"a{suffix}")
    assert np.array_equal(next(footage.exact()), pixels) and (footage.depth, footage.alpha) == (16, channels == 4)


def test_grey_of_16_bits_is_read_exactly(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 1 << 16, (5, 7), np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    assert np.array_equal(next(video.open_footage(tmp_path / "a.png").exact()), values[..., None].repeat(3, -1))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("deep", [False, True])
def test_exif_turns_images_as_pillow_does(tmp_path: Path, orientation: int, deep: bool) -> None:
    from PIL import ImageOps

    small = noise(4, 6, 3)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(small).save(tmp_path / "a.png", exif=exif)
    with Image.open(tmp_path / "a.png") as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    if deep:
        content = (tmp_path / "a.png").read_bytes()
        start = content.index(b"eXIf") - 4
        chunk = content[start : start + 12 + int.from_bytes(content[start : start + 4])]
        cv2.imwrite(str(tmp_path / "a.png"), cv2.cvtColor(conform(small, Layout(16, False)), cv2.COLOR_RGB2BGR))
        content = (tmp_path / "a.png").read_bytes()
        (tmp_path / "a.png").write_bytes(content[:33] + chunk + content[33:])
    footage = video.open_footage(tmp_path / "a.png")
    assert footage.depth == (16 if deep else 8) and np.array_equal(next(footage.rgb()), expected)


def test_a_folder_of_several_kinds_has_the_pixels_of_the_richest(tmp_path: Path) -> None:
    plain = save_png(tmp_path / "1.png")
    video.write_image(tmp_path / "2.png", gradient(1, 4, 6, 3)[0])
    video.write_image(tmp_path / "3.png", noise(4, 6, 4))
    footage = video.open_footage(tmp_path)
    assert (footage.depth, footage.alpha) == (16, True)
    first = next(footage.exact())
    assert np.array_equal(first[..., :3], plain.astype(np.uint16) * 257) and bool((first[..., 3] == 65535).all())
    assert np.array_equal(np.stack(list(footage.rgb())), video.read_clip(tmp_path).frames)


@pytest.mark.parametrize("suffix", ["png", "webp", "tif"])
def test_an_animation_named_as_an_image_is_refused(tmp_path: Path, suffix: str) -> None:
    flat = [Image.new("RGB", (6, 4), colour) for colour in ("red", "blue")]
    flat[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=flat[1:])
    with pytest.raises(InputError, match="holds 2 pictures"):
        video.open_footage(tmp_path / f"a.{suffix}")


def test_a_tiff_cut_short_in_its_tags_is_refused_without_a_warning(tmp_path: Path) -> None:
    Image.fromarray(noise(4, 6, 3)).save(tmp_path / "a.tif")
    (tmp_path / "a.tif").write_bytes((tmp_path / "a.tif").read_bytes()[:100])
    with pytest.raises(InputError, match=r"a\.tif cannot be read as an image"):
        video.open_footage(tmp_path / "a.tif")


def test_a_folder_is_read_in_any_span_too(tmp_path: Path) -> None:
    video.write_clip(tmp_path / "clip", noisy_clip(6))
    footage, clip = video.open_footage(tmp_path / "clip"), noisy_clip(6)
    assert np.array_equal(list(footage.rgb(2, 5)), clip.frames[2:5]) and not list(footage.exact(6))
    assert footage.fingerprint == clip.fingerprint and list(map(len, (footage, clip))) == [6, 6]


@pytest.mark.parametrize("depth", [8, 10, 12, 16])
def test_no_value_is_lost_between_the_depths(depth: int) -> None:
    values, wide = np.arange(1 << depth, dtype=np.uint16), np.arange(1 << 16, dtype=np.uint16)
    assert np.array_equal(narrow(widen(values, depth), depth), values) and widen(values, depth)[-1] == 65535
    assert np.array_equal(narrow(wide, depth), np.floor(wide * float(values[-1]) / 65535 + 0.5))
    shaped = values.reshape(-1, 1, 1).repeat(3, -1)
    assert np.array_equal(to_rgb(widen(shaped, depth)), np.floor(widen(shaped, depth) / 257 + 0.5))
