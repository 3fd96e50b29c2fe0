"""Clips read on demand and written as they come: every bit of 8, 10, 12 or 16, opacity, any span, little memory."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from clips import gradient, noise, noisy_clip, save_png
from films import MS, UNEVEN, Making, ffmpeg, length, make_film, packets, raw, stored, tags, times

from loraedit import video
from loraedit.errors import InputError, ShapeError
from loraedit.types import Clip, Footage, Size, Stored
from loraedit.video import decoding
from loraedit.video.pixels import Layout, conform, narrow

FPS = Fraction(25)


def make_drift(path: Path, encoder: str, pixels: str, **making: Any) -> None:
    """Write five frames of 16 bits, with opacity if the format has it."""
    alpha = any(component.is_alpha for component in av.VideoFormat(pixels).components)
    make_film(path, Making(encoder, pixels, **making), gradient(5, channels=3 + alpha))


def make_gop_film(path: Path, encoder: str, options: dict[str, str], frames: int = 40) -> None:
    """Write a film of many groups of pictures."""
    ground = cv2.GaussianBlur(noise(32, 48, 3), (0, 0), 2)
    moving = np.stack([np.roll(ground, index, 1) for index in range(frames)])
    settings = [part for name, value in options.items() for part in (f"-{name}", value)]
    pixels = "bgr0" if encoder == "ffv1" else "yuv420p"
    ffmpeg(*raw(moving), "-c:v", encoder, "-pix_fmt", pixels, *settings, path, given=moving.tobytes())


def same(one: Footage, other: Footage) -> bool:
    pairs = zip(one.exact(), other.exact(), strict=True)
    return all(np.array_equal(a, b) and a.dtype == b.dtype for a, b in pairs)


# Any span


# x265's cutree writes beyond its memory where frames are small.
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
    """A decoder that counts how often a file is opened, and how many frames it gives."""

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


def test_frames_are_written_one_by_one_and_none_is_kept(tmp_path: Path) -> None:
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


def test_opening_reports_how_far_it_is(tmp_path: Path) -> None:
    make_gop_film(tmp_path / "a.mkv", "ffv1", {}, 10)
    seen: list[tuple[int, int]] = []
    video.open_footage(tmp_path / "a.mkv", lambda done, total: seen.append((done, total)))
    assert seen == [(index, 10) for index in range(1, 11)]


@pytest.mark.parametrize("count", [4, 6])
@pytest.mark.parametrize("name", ["out.mkv", "out.mp4"])
def test_other_frames_than_the_source_has_are_an_error_and_leave_nothing(tmp_path: Path, name: str, count: int) -> None:
    make_drift(tmp_path / "source.mkv", "ffv1", "bgr0")
    footage = video.open_footage(tmp_path / "source.mkv")
    with pytest.raises(ShapeError, match="Expected 5 frames"):
        video.write_footage(tmp_path / name, [next(footage.exact())] * count, footage)
    assert [path.name for path in tmp_path.iterdir()] == ["source.mkv"]


# Every bit


@dataclass(frozen=True)
class Deep:
    """A kind of file, and what it should be read as."""

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
def test_lossless_files_hold_what_is_written_to_the_bit(tmp_path: Path, deep: Deep) -> None:
    """Also timestamps, length, sound and titles; the source's own representation is what it decodes to."""
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
    """The values of the source's own depth, below the 8th bit too, others inside a box; opacity as it is."""
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
    assert same(video.open_footage(tmp_path / "out.mov"), footage)
    assert tags(tmp_path / "out.mp4") == tags(source) == (9, 1, 9, 16)
    written = video.open_footage(tmp_path / "out.mp4")
    apart = [np.abs(a.astype(int) - b).max() for a, b in zip(written.exact(), footage.exact(), strict=True)]
    assert max(apart) < 8 * 257


def test_a_ten_bit_film_is_read_with_the_precision_of_ten_bits(tmp_path: Path) -> None:
    """Compared with the standard's own formula for BT.709, limited range."""
    make_drift(tmp_path / "a.mkv", "ffv1", "yuv444p10le")
    with av.open(str(tmp_path / "a.mkv")) as container:
        frame = next(container.decode(video=0))
    y, u, v = (np.frombuffer(plane, np.uint16).reshape(48, -1)[:, :64].astype(float) for plane in frame.planes)
    luma, blue, red = (y - 64) / 876, (u - 512) / 896, (v - 512) / 896
    r, b = luma + 1.5748 * red, luma + 1.8556 * blue
    expected = np.stack([r, (luma - 0.2126 * r - 0.0722 * b) / 0.7152, b], -1) * 1023
    ours = narrow(next(video.open_footage(tmp_path / "a.mkv").exact()), 10)
    assert np.abs(ours - expected.clip(0, 1023)).max() <= 1


def test_what_people_see_is_the_stored_picture_rounded(tmp_path: Path) -> None:
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
def test_ten_bits_and_opacity_go_where_the_codec_takes_them_and_a_sentence_says_where_not(
    tmp_path: Path, codec: Any, name: str, pixels: str, lost: list[str]
) -> None:
    source = tmp_path / "source.mkv"
    make_drift(source, "ffv1", "gbrap10le")
    footage = video.open_footage(source)
    grown = (cv2.resize(pixels, (64, 64)) for pixels in footage.exact())  # AV1 takes nothing smaller
    notes = video.write_footage(tmp_path / name, grown, footage, codec)
    assert len(notes) == bool(lost) and all(word in notes[0] for word in lost)
    with av.open(str(tmp_path / name)) as container:
        assert container.streams.video[0].codec_context.pix_fmt == pixels
    written = video.open_footage(tmp_path / name)
    grown = (conform(cv2.resize(pixels, (64, 64)), Layout(16, written.alpha)) for pixels in footage.exact())
    for ours, theirs in zip(written.exact(), grown, strict=True):
        assert np.abs(conform(ours, Layout(16, written.alpha)).astype(int) - theirs).mean() < 2 * 257


def test_frames_of_eight_bits_stay_so_in_a_clip_like_a_deeper_one(tmp_path: Path) -> None:
    make_drift(tmp_path / "source.mkv", "ffv1", "gbrp10le")
    footage = video.open_footage(tmp_path / "source.mkv")
    for name, pixels in (("a.mkv", "bgr0"), ("a.mp4", "yuv420p")):
        assert video.write_footage(tmp_path / name, footage.rgb(), footage) == []
        with av.open(str(tmp_path / name)) as container:
            assert container.streams.video[0].codec_context.pix_fmt == pixels


def test_a_picture_of_4k_goes_through_every_step(tmp_path: Path) -> None:
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


# Files that lie


def test_frames_too_large_to_be_meant_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    video.write_clip(tmp_path / "a.mkv", noisy_clip())
    monkeypatch.setattr("loraedit.video.decoding.MAX_PIXELS", 32 * 48 - 1)
    with pytest.raises(InputError, match=r"a\.mkv is 48x32, too large to decode safely"):
        video.open_footage(tmp_path / "a.mkv")


def test_more_frames_than_can_be_meant_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    video.write_clip(tmp_path / "a.mkv", noisy_clip(6))
    monkeypatch.setattr("loraedit.video.decoding.MAX_FRAMES", 5)
    with pytest.raises(InputError, match="more than 5 frames"):
        video.open_footage(tmp_path / "a.mkv")


@pytest.mark.parametrize("size", [(0, 0), (65535, 65535), (1, 1)])
def test_an_mp4_with_a_false_size_is_read_as_it_is_coded_or_refused(tmp_path: Path, size: tuple[int, int]) -> None:
    """The size that .mp4 states beside the stream's own is patched."""
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
def test_a_mad_duration_is_passed_over(tmp_path: Path, value: float) -> None:
    video.write_clip(tmp_path / "a.mkv", noisy_clip())
    content = (tmp_path / "a.mkv").read_bytes()
    start = content.index(b"\x44\x89\x88") + 3  # Matroska's Duration, eight bytes
    import struct

    (tmp_path / "a.mkv").write_bytes(content[:start] + struct.pack(">d", value) + content[start + 8 :])
    footage = video.open_footage(tmp_path / "a.mkv")
    assert len(footage) == 3 and 20 < footage.fps < 40
    video.write_footage(tmp_path / "b.mkv", footage.exact(), footage)
    assert same(video.open_footage(tmp_path / "b.mkv"), footage)


@pytest.mark.parametrize("gap", [1 << 40, 1 << 55])
def test_timestamps_that_make_no_sense_give_an_even_rate(tmp_path: Path, gap: int) -> None:
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
