"""Clips are read on demand, in any span, and written as they come, in little memory; damaged files are refused."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from clips import noise, noisy_clip, same_frames, save_png
from films import ffmpeg, length, make_drift, raw, times

from loraedit import video
from loraedit.errors import InputError, ShapeError
from loraedit.types import Clip, Size, Stored
from loraedit.video import decoding

FPS = Fraction(25)


def make_gop_film(path: Path, encoder: str, options: dict[str, str], frames: int = 40) -> None:
    """Writes a film of many groups of pictures."""
    ground = cv2.GaussianBlur(noise(32, 48, 3), (0, 0), 2)
    moving = np.stack([np.roll(ground, index, 1) for index in range(frames)])
    settings = [part for name, value in options.items() for part in (f"-{name}", value)]
    pixels = "bgr0" if encoder == "ffv1" else "yuv420p"
    ffmpeg(*raw(moving), "-c:v", encoder, "-pix_fmt", pixels, *settings, path, given=moving.tobytes())


# Any span


# x265's cutree writes beyond its memory if frames are small.
GOPS = [
    ("a.mp4", "libx264", {"x264-params": "keyint=8:open-gop=1:bframes=3:log-level=-1"}),
    ("a.mkv", "libx264", {"x264-params": "keyint=8:intra-refresh=1:log-level=-1"}),
    ("a.mkv", "libx265", {"x265-params": "keyint=8:open-gop=1:cutree=0:log-level=none"}),
    ("a.mp4", "mpeg4", {"g": "8", "bf": "2"}),
    ("a.ts", "libx264", {"g": "8"}),
    ("a.mkv", "ffv1", {}),
]


@pytest.mark.parametrize(("name", "encoder", "options"), GOPS)
def test_every_frame_is_the_same_wherever_reading_begins(
    tmp_path: Path, name: str, encoder: str, options: dict[str, str]
) -> None:
    make_gop_film(tmp_path / name, encoder, options)
    footage = video.open_footage(tmp_path / name)
    whole = list(footage.exact())
    assert len(whole) == len(footage) == 40 and footage.fingerprint == video.read_clip(tmp_path / name).fingerprint
    for start in (39, 20, 21, 30, 8, 7, 9, 0, 33, 16, 15):
        assert np.array_equal(next(footage.exact(start, start + 1)), whole[start])
    for one, other in zip(footage.exact(3, 30), footage.rgb(3, 30), strict=True):  # two readers side by side
        assert np.array_equal(one, other)


class Counted(decoding.Decoder):
    """Counts how often a file is opened, and how many frames are decoded."""

    opened = decoded = 0

    def __init__(self, *arguments: Any) -> None:
        Counted.opened += 1
        super().__init__(*arguments)

    def __iter__(self) -> Iterator[Any]:
        for frame in super().__iter__():
            Counted.decoded += 1
            yield frame


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> type[Counted]:
    Counted.opened = Counted.decoded = 0
    monkeypatch.setattr("loraedit.video.reading.Decoder", Counted)
    return Counted


def test_spans_that_follow_each_other_are_decoded_once(tmp_path: Path, counted: type[Counted]) -> None:
    make_gop_film(tmp_path / "a.mp4", "libx264", {"g": "40"})
    footage = video.open_footage(tmp_path / "a.mp4")
    assert (counted.opened, counted.decoded) == (1, 40)
    for start in range(0, 40, 5):
        assert len(list(footage.rgb(start, start + 5))) == 5
    assert (counted.opened, counted.decoded) == (2, 80)


def test_a_late_span_begins_at_its_key_frame(tmp_path: Path, counted: type[Counted]) -> None:
    make_gop_film(tmp_path / "a.mp4", "libx264", {"g": "8"})
    footage = video.open_footage(tmp_path / "a.mp4")
    list(footage.rgb(34, 36))
    assert counted.decoded <= 40 + 8


def test_a_file_that_cannot_be_sought_exactly_is_decoded_from_its_beginning(
    tmp_path: Path, counted: type[Counted], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_gop_film(tmp_path / "a.mp4", "libx264", {"g": "8"})
    footage = video.open_footage(tmp_path / "a.mp4")
    whole, seek = list(footage.exact()), Counted.seek

    def miss(self: Counted, pts: int, indices: dict[int, int]) -> bool:
        found = seek(self, pts, indices)
        self.position += 1
        return found

    monkeypatch.setattr(Counted, "seek", miss)
    counted.decoded = 0
    assert np.array_equal(next(footage.exact(34)), whole[34]) and counted.decoded > 34


def test_a_file_that_changes_while_it_is_in_use_is_refused(tmp_path: Path) -> None:
    make_gop_film(tmp_path / "a.mkv", "ffv1", {}, 4)
    video.write_clip(tmp_path / "frames", noisy_clip(4))
    film, folder = video.open_footage(tmp_path / "a.mkv"), video.open_footage(tmp_path / "frames")
    video.write_clip(tmp_path / "a.mkv", Clip(noise(4, 32, 48, 3), FPS))
    save_png(tmp_path / "frames" / "00002.png", 32, 48)
    for footage in (film, folder):
        with pytest.raises(InputError, match="was changed while it was in use"):
            list(footage.exact())


def test_frames_are_written_one_by_one_and_not_kept(tmp_path: Path) -> None:
    alive: dict[int, Any] = {}
    most = 0

    def frames() -> Iterator[Stored]:
        nonlocal most
        for index in range(30):
            frame = noise(32, 48, 3, seed=index)
            alive[index] = weakref.ref(frame)
            most = max(most, sum(each() is not None for each in alive.values()))
            yield frame

    for name in ("a.mp4", "a.mkv", "frames"):
        video.write_footage(tmp_path / name, frames(), FPS)
        assert len(video.open_footage(tmp_path / name)) == 30
    assert most <= 6


def test_opening_reports_progress(tmp_path: Path) -> None:
    make_gop_film(tmp_path / "a.mkv", "ffv1", {}, 10)
    seen: list[tuple[int, int]] = []
    video.open_footage(tmp_path / "a.mkv", lambda done, total: seen.append((done, total)))
    assert seen == [(index, 10) for index in range(1, 11)]


@pytest.mark.parametrize("count", [4, 6])
@pytest.mark.parametrize("name", ["out.mkv", "out.mp4"])
def test_another_number_of_frames_than_the_source_has_is_an_error_and_leaves_nothing(
    tmp_path: Path, name: str, count: int
) -> None:
    make_drift(tmp_path / "source.mkv", "ffv1", "bgr0")
    footage = video.open_footage(tmp_path / "source.mkv")
    with pytest.raises(ShapeError, match="Expected 5 frames"):
        video.write_footage(tmp_path / name, [next(footage.exact())] * count, footage)
    assert [path.name for path in tmp_path.iterdir()] == ["source.mkv"]


# Files with false headers


def test_frames_too_large_to_decode_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    video.write_clip(tmp_path / "a.mkv", noisy_clip())
    monkeypatch.setattr("loraedit.video.decoding.MAX_PIXELS", 32 * 48 - 1)
    with pytest.raises(InputError, match=r"a\.mkv is 48x32, too large to decode safely"):
        video.open_footage(tmp_path / "a.mkv")


def test_too_many_frames_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    video.write_clip(tmp_path / "a.mkv", noisy_clip(6))
    monkeypatch.setattr("loraedit.video.decoding.MAX_FRAMES", 5)
    with pytest.raises(InputError, match="more than 5 frames"):
        video.open_footage(tmp_path / "a.mkv")


@pytest.mark.parametrize("size", [(0, 0), (65535, 65535), (1, 1)])
def test_an_mp4_with_a_false_size_is_read_as_it_is_coded_or_refused(tmp_path: Path, size: tuple[int, int]) -> None:
    """Patches the size that .mp4 states beside the stream's own."""
    video.write_clip(tmp_path / "a.mp4", noisy_clip())
    content = bytearray((tmp_path / "a.mp4").read_bytes())
    start = content.index(b"avc1", content.index(b"stsd")) + 4 + 24
    content[start : start + 4] = b"".join(side.to_bytes(2) for side in size)
    (tmp_path / "a.mp4").write_bytes(content)
    try:
        assert video.open_footage(tmp_path / "a.mp4").size == Size(32, 48)
    except InputError as error:
        assert "a.mp4" in str(error)  # noqa: PT017 (either outcome is right)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0, 0.0, 1e300])
def test_an_absurd_duration_is_ignored(tmp_path: Path, value: float) -> None:
    video.write_clip(tmp_path / "a.mkv", noisy_clip())
    content = (tmp_path / "a.mkv").read_bytes()
    start = content.index(b"\x44\x89\x88") + 3  # Matroska's Duration, eight bytes
    import struct

    (tmp_path / "a.mkv").write_bytes(content[:start] + struct.pack(">d", value) + content[start + 8 :])
    footage = video.open_footage(tmp_path / "a.mkv")
    assert len(footage) == 3 and 20 < footage.fps < 40
    video.write_footage(tmp_path / "b.mkv", footage.exact(), footage)
    assert same_frames(video.open_footage(tmp_path / "b.mkv"), footage)


@pytest.mark.parametrize("gap", [1 << 40, 1 << 55])
def test_invalid_timestamps_give_an_even_rate(tmp_path: Path, gap: int) -> None:
    make_gop_film(tmp_path / "a.mkv", "ffv1", {}, 3)
    with av.open(str(tmp_path / "a.mkv")) as source, av.open(str(tmp_path / "b.nut"), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for index, packet in enumerate(packet for packet in source.demux(video=0) if packet.size):
            packet.pts = packet.dts = index * gap
            packet.stream = stream
            target.mux(packet)
    footage = video.open_footage(tmp_path / "b.nut")
    video.write_footage(tmp_path / "out.mp4", footage.exact(), footage)
    assert len(times(tmp_path / "out.mp4")) == 3 and length(tmp_path / "out.mp4") < 10
