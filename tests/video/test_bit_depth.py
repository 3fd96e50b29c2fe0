"""Bit depth and opacity: lossless files keep every bit, other codecs keep what they can and report the rest."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from clips import gradient, same_frames
from films import MS, UNEVEN, length, make_drift, packets, stored, tags, times

from loraedit import video
from loraedit.types import Footage, Size, Stored
from loraedit.video.pixels import Layout, conform, narrow

FPS = Fraction(25)


@dataclass(frozen=True)
class Deep:
    """Describes a kind of file, and what it should be read as."""

    name: str
    encoder: str
    pixels: str
    depth: int
    alpha: bool = False


DEEP = [
    Deep("a.mp4", "libx265", "yuv420p10le", 10), Deep("a.mp4", "libx264", "yuv420p10le", 10),
    Deep("a.mov", "prores_ks", "yuv422p10le", 10), Deep("a.mov", "prores_ks", "yuva444p10le", 12, alpha=True),
    Deep("a.mkv", "ffv1", "yuv420p10le", 10), Deep("a.mkv", "ffv1", "gbrp10le", 10),
    Deep("a.mkv", "ffv1", "gbrap10le", 10, alpha=True), Deep("a.mkv", "ffv1", "yuv444p12le", 12),
    Deep("a.mkv", "ffv1", "gbrap16le", 16, alpha=True), Deep("a.mkv", "ffv1", "gray16le", 16),
    Deep("a.mkv", "ffv1", "bgra", 8, alpha=True), Deep("a.mkv", "ffv1", "yuva420p", 8, alpha=True),
    Deep("a.mov", "png", "rgb48be", 16), Deep("a.mov", "png", "rgba64be", 16, alpha=True),
    Deep("a.mov", "png", "rgba", 8, alpha=True),
]  # fmt: skip
LOSSLESS = [("out.mkv", None), ("out.mov", "png"), ("frames", None)]


@pytest.mark.parametrize("deep", DEEP, ids=lambda deep: f"{deep.encoder}-{deep.pixels}")
def test_lossless_files_keep_every_bit(tmp_path: Path, deep: Deep) -> None:
    """Checks timestamps, length, sound and titles too; the source decodes to its own representation."""
    path = tmp_path / deep.name
    make_drift(path, deep.encoder, deep.pixels)
    source = video.open_footage(path)
    first = next(source.exact())
    assert (source.depth, source.alpha, first.shape[-1]) == (deep.depth, deep.alpha, 3 + deep.alpha)
    assert first.dtype == (np.uint8 if deep.depth == 8 else np.uint16) and source.size == Size(48, 64)
    changed = list(edited(source))
    for name, codec in LOSSLESS:
        out = tmp_path / name
        assert video.write_footage(out, changed, source, codec) == []  # type: ignore[arg-type]
        result = video.open_footage(out)
        for ours, theirs in zip(result.exact(), changed, strict=True):
            assert ours.dtype == theirs.dtype and np.array_equal(ours, theirs)
        if out.suffix:
            assert times(out) == times(path) == [at * MS for at in UNEVEN] and length(out) == length(path)
            assert packets(out, "audio") == packets(path, "audio") != []
            with av.open(str(out)) as container:
                assert container.metadata["title"] == "Räder"
                assert container.streams.audio[0].metadata["language"] == "fra"


def edited(source: Footage) -> Iterator[Stored]:
    """Yields values of the source's own depth, beyond 8 bits too, changed inside a box; opacity stays."""
    for pixels in source.exact():
        changed = pixels.copy()
        changed[10:20, 10:30, :3] = changed[10:20, 10:30, :3][::-1]
        yield changed


def test_a_turned_ten_bit_film_with_wide_pixels_and_sound_comes_back(tmp_path: Path) -> None:
    source, making = tmp_path / "source.mp4", {"aspect": Fraction(4, 3), "tags": (9, 1, 9, 16)}
    make_drift(source, "libx265", "yuv420p10le", turned=("-display_rotation", 90), **making)
    footage = video.open_footage(source)
    assert footage.size == Size(64, 48)
    for name, codec in (("out.mov", "png"), ("out.mp4", "h265")):
        assert video.write_footage(tmp_path / name, footage.exact(), footage, codec) == []  # type: ignore[arg-type]
        assert stored(tmp_path / name) == stored(source)
        assert packets(tmp_path / name, "audio") == packets(source, "audio")
    assert same_frames(video.open_footage(tmp_path / "out.mov"), footage)
    assert tags(tmp_path / "out.mp4") == tags(source) == (9, 1, 9, 16)
    written = video.open_footage(tmp_path / "out.mp4")
    apart = [np.abs(a.astype(int) - b).max() for a, b in zip(written.exact(), footage.exact(), strict=True)]
    assert max(apart) < 8 * 257


def test_a_ten_bit_film_is_read_with_the_precision_of_ten_bits(tmp_path: Path) -> None:
    """Compares with the standard's formula for BT.709, limited range."""
    make_drift(tmp_path / "a.mkv", "ffv1", "yuv444p10le")
    with av.open(str(tmp_path / "a.mkv")) as container:
        frame = next(container.decode(video=0))
    y, u, v = (np.frombuffer(plane, np.uint16).reshape(48, -1)[:, :64].astype(float) for plane in frame.planes)
    luma, blue, red = (y - 64) / 876, (u - 512) / 896, (v - 512) / 896
    r, b = luma + 1.5748 * red, luma + 1.8556 * blue
    expected = np.stack([r, (luma - 0.2126 * r - 0.0722 * b) / 0.7152, b], -1) * 1023
    ours = narrow(next(video.open_footage(tmp_path / "a.mkv").exact()), 10)
    assert np.abs(ours - expected.clip(0, 1023)).max() <= 1


def test_rgb_frames_are_the_stored_frames_rounded_to_8_bits(tmp_path: Path) -> None:
    make_drift(tmp_path / "a.mov", "png", "rgba64be")
    footage = video.open_footage(tmp_path / "a.mov")
    for seen, exact, made in zip(footage.rgb(), footage.exact(), gradient(5, channels=4), strict=True):
        assert np.array_equal(exact, made) and seen.dtype == np.uint8
        assert np.array_equal(seen, np.floor(made[..., :3] / 257 + 0.5))


@pytest.mark.parametrize(
    ("codec", "name", "pixels", "lost"),
    [
        ("h264", "out.mp4", "yuv420p", ["8 of 10 bits", "opacity"]),
        ("h265", "out.mp4", "yuv420p10le", ["opacity"]),
        ("av1", "out.mp4", "yuv420p10le", ["opacity"]),
        ("prores", "out.mov", "yuva444p12le", []),
        ("ffv1", "out.mkv", "gbrap10le", []),
    ],
)
def test_ten_bits_and_opacity_are_kept_if_the_codec_has_them_and_a_note_reports_a_loss(
    tmp_path: Path, codec: Any, name: str, pixels: str, lost: list[str]
) -> None:
    source = tmp_path / "source.mkv"
    make_drift(source, "ffv1", "gbrap10le")
    footage = video.open_footage(source)
    grown = (cv2.resize(pixels, (64, 64)) for pixels in footage.exact())  # AV1 accepts no smaller frames
    notes = video.write_footage(tmp_path / name, grown, footage, codec)
    assert len(notes) == bool(lost) and all(word in notes[0] for word in lost)
    with av.open(str(tmp_path / name)) as container:
        assert container.streams.video[0].codec_context.pix_fmt == pixels
    written = video.open_footage(tmp_path / name)
    grown = (conform(cv2.resize(pixels, (64, 64)), Layout(16, written.alpha)) for pixels in footage.exact())
    for ours, theirs in zip(written.exact(), grown, strict=True):
        assert np.abs(conform(ours, Layout(16, written.alpha)).astype(int) - theirs).mean() < 2 * 257


def test_eight_bit_frames_stay_eight_bit_in_a_clip_like_a_deeper_one(tmp_path: Path) -> None:
    make_drift(tmp_path / "source.mkv", "ffv1", "gbrp10le")
    footage = video.open_footage(tmp_path / "source.mkv")
    for name, pixels in (("a.mkv", "bgr0"), ("a.mp4", "yuv420p")):
        assert video.write_footage(tmp_path / name, footage.rgb(), footage) == []
        with av.open(str(tmp_path / name)) as container:
            assert container.streams.video[0].codec_context.pix_fmt == pixels


def test_a_4k_frame_survives_every_step(tmp_path: Path) -> None:
    frames = [np.zeros((2160, 3841, 3), np.uint16)]
    frames[0][1000:, 7:] = 40000
    video.write_footage(tmp_path / "a.mkv", frames, FPS)
    (back,) = video.open_footage(tmp_path / "a.mkv").exact()
    assert np.array_equal(back, frames[0])


@pytest.mark.parametrize(("name", "codec"), [("a.mkv", None), ("a.mov", "png"), ("a.mov", "prores"), ("a.mp4", "h264")])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 7), (17, 33)])
def test_odd_sizes_of_every_depth_are_written(tmp_path: Path, name: str, codec: Any, height: int, width: int) -> None:
    for channels in (3, 4):
        frames = gradient(2, height, width, channels)
        video.write_footage(tmp_path / name, frames, FPS, codec)
        back = list(video.open_footage(tmp_path / name).exact())
        if codec in (None, "png"):
            assert np.array_equal(back, frames)
        else:
            assert back[0].shape[:2] == (height + height % 2, width + width % 2)
