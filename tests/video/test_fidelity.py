"""Timing, sound, titles, pixel aspect and colour of a video file return in the file that is written from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from clips import difference, noisy_clip, smooth_clip
from films import MS, UNEVEN, Making, ffmpeg, length, make_film, packets, tags, times
from numpy.typing import NDArray
from scenes import Scene

import loraedit
from loraedit import video
from loraedit.errors import InputError
from loraedit.job.prepare import prepare
from loraedit.job.request import EditRequest
from loraedit.types import Clip, Size
from loraedit.video import formats

CODECS = [
    ("clip.mp4", "h264"), ("clip.mov", "h264"), ("clip.mkv", "h264"),
    ("clip.mp4", "h265"), ("clip.mov", "h265"), ("clip.mkv", "h265"),
    ("clip.mp4", "av1"), ("clip.mkv", "av1"), ("clip.mov", "prores"), ("clip.mkv", "prores"),
    ("clip.mov", "png"), ("clip.mkv", "ffv1"), ("frames", "png"),
]  # fmt: skip
WEIGHTS = {1: (0.2126, 0.0722), 4: (0.30, 0.11), 5: (0.299, 0.114), 6: (0.299, 0.114), 7: (0.212, 0.087),
           9: (0.2627, 0.0593)}  # fmt: skip
PATCHES = np.array(
    [[0, 0, 0], [255, 255, 255], [128, 128, 128], [220, 40, 40], [40, 200, 60], [50, 60, 210], [240, 220, 30],
     [30, 30, 30]], np.uint8)  # fmt: skip


# Timing


@pytest.mark.parametrize(("name", "codec"), CODECS[:-1])
def test_every_codec_keeps_uneven_timestamps_length_and_sound(tmp_path: Path, name: str, codec: Any) -> None:
    source, out = tmp_path / "source.mp4", tmp_path / name
    make_film(source, Making(sound_at=Fraction(1, 10)))
    assert video.write_clip(out, video.read_clip(source), codec) == []
    assert times(out) == times(source) == [at * MS for at in UNEVEN]
    assert length(out) == length(source) == 320 * MS
    assert packets(out, "audio") == packets(source, "audio") != []
    assert video.read_clip(out).fps == video.read_clip(source).fps == 5 / (320 * MS)


def test_the_lossless_codecs_are_exact_with_uneven_timestamps_and_sound(tmp_path: Path) -> None:
    make_film(tmp_path / "source.mp4", Making())
    clip = replace(video.read_clip(tmp_path / "source.mp4"), frames=noisy_clip(5, 64, 72).frames)
    for name, codec in (("clip.mkv", None), ("clip.mkv", "ffv1"), ("clip.mov", "png"), ("frames", None)):
        video.write_clip(tmp_path / name, clip, codec)  # type: ignore[arg-type]
        assert np.array_equal(video.read_clip(tmp_path / name).frames, clip.frames)


@pytest.mark.parametrize("fps", [Fraction(30000, 1001), Fraction(25), Fraction(24000, 1001)])
def test_an_even_rate_survives_the_milliseconds_of_mkv(tmp_path: Path, fps: Fraction) -> None:
    video.write_clip(tmp_path / "a.mkv", noisy_clip(9, fps=fps))
    video.write_clip(tmp_path / "b.mp4", video.read_clip(tmp_path / "a.mkv"))
    assert times(tmp_path / "b.mp4") == [index / fps for index in range(9)]
    assert length(tmp_path / "b.mp4") == 9 / fps


def test_coarse_timestamps_with_a_gap_keep_the_gap(tmp_path: Path) -> None:
    make_film(tmp_path / "source.mp4", Making(sound=None, times=(0, 100, 300, 400, 500), last=100))
    clip = video.read_clip(tmp_path / "source.mp4")
    assert clip.origin is not None
    origin = replace(clip.origin, pts=(0, 1, 3, 4, 5), time_base=Fraction(1, 10), last=1)
    video.write_clip(tmp_path / "out.mp4", replace(clip, origin=origin))
    assert times(tmp_path / "out.mp4") == times(tmp_path / "source.mp4")


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_broadcast_that_starts_late_starts_at_zero_and_in_sync(tmp_path: Path, suffix: str) -> None:
    source, out = tmp_path / "source.ts", tmp_path / f"out{suffix}"
    late = tuple(2000 + at for at in UNEVEN)
    make_film(source, Making(sound="mp2", sound_at=Fraction(21, 10), times=late))
    assert video.write_clip(out, video.read_clip(source)) == []

    def lag(path: Path) -> Fraction:
        with av.open(str(path)) as container:
            first = next(container.demux(audio=0))
            return first.pts * first.time_base - times(path)[0]

    assert (
        times(source)[0] >= 2 and times(out)[0] == 0 and [at - times(source)[0] for at in times(source)] == times(out)
    )
    assert abs(lag(out) - lag(source)) < MS


def test_a_clip_with_another_number_of_frames_than_its_origin_is_an_error(tmp_path: Path) -> None:
    make_film(tmp_path / "source.mp4", Making())
    with pytest.raises(TypeError, match="expected frames at 5 times, got 4"):
        Clip(noisy_clip(4).frames, Fraction(25), video.read_clip(tmp_path / "source.mp4").origin)


# Pixel aspect, titles, covers


def test_a_pixel_aspect_that_cannot_be_written_is_noted(tmp_path: Path) -> None:
    make_film(tmp_path / "source.mp4", Making(aspect=Fraction(4, 3)))
    (note,) = video.write_clip(tmp_path / "out.mkv", video.read_clip(tmp_path / "source.mp4"))
    assert "4:3" in note and "--codec png" in note


def test_a_cover_is_not_read_as_the_film_and_a_note_says_that_it_is_left_out(tmp_path: Path) -> None:
    make_film(tmp_path / "film.mp4", Making())
    video.write_image(tmp_path / "cover.png", smooth_clip(1).frames[0])
    ffmpeg("-i", tmp_path / "film.mp4", "-i", tmp_path / "cover.png", "-map", "0:v", "-map", "0:a", "-map", 1,
           "-c", "copy", "-disposition:v:1", "attached_pic", tmp_path / "source.mp4")  # fmt: skip
    clip = video.read_clip(tmp_path / "source.mp4")
    assert len(clip) == 5
    assert video.write_clip(tmp_path / "out.mp4", clip) == ["The cover or second picture of source.mp4 is not copied."]


@pytest.mark.parametrize("name", ["out.mp4", "out.mov", "out.mkv"])
def test_titles_chapters_language_and_subtitles_are_copied(tmp_path: Path, name: str) -> None:
    source, out = tmp_path / "source.mkv", tmp_path / name
    make_film(source, Making(subtitles="subrip"))
    notes = video.write_clip(out, video.read_clip(source))
    with av.open(str(out)) as container:
        assert container.metadata["title"] == "Räder"
        assert [chapter["metadata"]["title"] for chapter in container.chapters()] == ["one"]
        assert container.streams.audio[0].metadata["language"] == "fra"
    if name == "out.mkv":
        assert packets(out, "subtitle") == [b"Hello"] and notes == []
    else:
        assert [note for note in notes if "srt subtitles of source.mkv" in note and "A .mkv output" in note]
    assert packets(out, "audio") == packets(source, "audio")


# Colour


def coded(colours: NDArray[np.uint8], matrix: int, full: bool) -> NDArray[np.uint8]:
    """Converts colours ``[..., 3]`` to YUV by the standard's own formula."""
    red, blue = WEIGHTS[matrix]
    r, g, b = np.moveaxis(colours / 255, -1, 0)
    y = red * r + (1 - red - blue) * g + blue * b
    u, v = (b - y) / 2 / (1 - blue), (r - y) / 2 / (1 - red)
    scaled = (255 * y, 128 + 255 * u, 128 + 255 * v) if full else (16 + 219 * y, 128 + 224 * u, 128 + 224 * v)
    return np.rint(np.stack(scaled, -1)).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("full", [False, True], ids=["limited", "full"])
@pytest.mark.parametrize("matrix", list(WEIGHTS))
def test_colours_and_their_tags_survive_every_matrix_and_range(tmp_path: Path, matrix: int, full: bool) -> None:
    source, out = tmp_path / "source.mp4", tmp_path / "out.mp4"
    squares = PATCHES.reshape(2, 4, 3).repeat(16, 0).repeat(16, 1)
    planes = np.moveaxis(coded(squares, matrix, full), -1, 0)[None]
    making = Making(
        pixels="yuv444p", options=("-qp", "0"), sound=None, times=(0,), tags=(matrix, 2 if full else 1, 9, 16)
    )
    make_film(source, making, planes)
    clip = video.read_clip(source)
    video.write_clip(out, clip)
    assert tags(out) == tags(source) == making.tags
    middles = np.s_[0, 8::16, 8::16]
    assert difference(clip.frames[middles].reshape(-1, 3), PATCHES).max() <= 2
    assert difference(video.read_clip(out).frames[middles], clip.frames[middles]).max() <= 2


def test_a_small_untagged_film_is_written_with_the_tags_it_was_read_by(tmp_path: Path) -> None:
    make_film(tmp_path / "source.mp4", Making(tags=(2, 0, 2, 2)))
    assert tags(tmp_path / "source.mp4") == (2, 0, 2, 2)
    clip = video.read_clip(tmp_path / "source.mp4")
    video.write_clip(tmp_path / "out.mp4", clip)
    assert tags(tmp_path / "out.mp4") == (6, 1, 2, 2)
    assert difference(video.read_clip(tmp_path / "out.mp4").frames, clip.frames).max() <= 8


@pytest.mark.parametrize(("name", "codec"), CODECS)
def test_every_codec_looks_like_its_source(tmp_path: Path, name: str, codec: Any) -> None:
    make_film(tmp_path / "source.mp4", Making(tags=(6, 2, 6, 6)))
    clip = video.read_clip(tmp_path / "source.mp4")
    clip = replace(clip, frames=np.broadcast_to(PATCHES[[3, 4, 5, 6, 7]][:, None, None], (5, 64, 72, 3)))
    video.write_clip(tmp_path / name, clip, codec)
    allowed = 0 if codec in ("ffv1", "png") else 3
    assert difference(video.read_clip(tmp_path / name).frames, clip.frames).max() <= allowed


@pytest.mark.parametrize("frames", [1, 2, 3])
@pytest.mark.parametrize(("name", "codec"), CODECS[:-1])
def test_the_shortest_clips_can_be_written(tmp_path: Path, name: str, codec: Any, frames: int) -> None:
    video.write_clip(tmp_path / name, noisy_clip(frames, *((65, 70) if codec == "av1" else (16, 17))), codec)
    assert len(video.read_clip(tmp_path / name)) == frames


def test_h265_in_mp4_has_the_tag_that_apple_players_require(tmp_path: Path) -> None:
    video.write_clip(tmp_path / "clip.mp4", noisy_clip(2), "h265")
    with av.open(str(tmp_path / "clip.mp4")) as container:
        assert container.streams.video[0].codec_context.codec_tag == "hvc1"


def test_prores_is_ten_bit_with_half_the_chroma(tmp_path: Path) -> None:
    video.write_clip(tmp_path / "clip.mov", noisy_clip(2), "prores")
    with av.open(str(tmp_path / "clip.mov")) as container:
        context = container.streams.video[0].codec_context
        assert (context.name, context.pix_fmt, context.codec_tag) == ("prores", "yuv422p10le", "apch")


@pytest.mark.parametrize(("name", "codec"), [("a.mp4", "h265"), ("a.mp4", "av1"), ("a.mov", "prores")])
def test_the_same_frames_give_the_same_bytes(tmp_path: Path, name: str, codec: Any) -> None:
    contents = set()
    for _ in range(3):
        video.write_clip(tmp_path / name, smooth_clip(12, 64, 72), codec)
        contents.add((tmp_path / name).read_bytes())
    assert len(contents) == 1


# Refusals


@pytest.mark.parametrize(
    ("name", "codec", "advice"),
    [
        ("a.mp4", "png", ".mov or no suffix"),
        ("a.mp4", "prores", ".mov or .mkv"),
        ("a.mp4", "ffv1", "with .mkv"),
        ("a.mov", "av1", ".mp4 or .mkv"),
        ("a.mkv", "png", ".mov or no suffix"),
        ("frames", "h264", ".mp4, .mov or .mkv"),
    ],
)
def test_a_codec_that_the_container_cannot_hold_is_refused_before_any_work(
    tmp_path: Path, scene: Scene, name: str, codec: str, advice: str
) -> None:
    settings = loraedit.settings.make_settings({"codec": codec, "model": "nowhere"})
    with pytest.raises(InputError, match=advice) as caught:
        prepare(EditRequest(scene.source, scene.edited_first, scene.mask, settings=settings, out=tmp_path / name))
    assert codec in str(caught.value) and not any(tmp_path.iterdir())


def test_an_unknown_codec_is_refused() -> None:
    with pytest.raises(InputError, match="'codec' should be 'h264', 'h265'"):
        loraedit.settings.make_settings({"codec": "divx"})


def test_a_clip_too_small_for_the_codec_is_refused(tmp_path: Path) -> None:
    formats.check_encodable(tmp_path / "a.mp4", "h265", Size(16, 16))
    with pytest.raises(InputError, match="The clip is 40x15, but h265 needs at least 16x16"):
        formats.check_encodable(tmp_path / "a.mp4", "h265", Size(15, 40))


def test_an_encoder_that_this_build_lacks_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = replace(formats._ENCODINGS["av1"], encoder="librav1e-no")
    monkeypatch.setitem(formats._ENCODINGS, "av1", missing)
    with pytest.raises(InputError, match="cannot write av1: it has no librav1e-no"):
        video.check_writable(tmp_path / "a.mp4", "av1")


@pytest.mark.parametrize(("name", "sound"), [("out.mp4", "vorbis"), ("out.mov", "libopus")])
def test_sound_that_does_not_fit_is_left_out_with_a_note(tmp_path: Path, name: str, sound: str) -> None:
    source, out = tmp_path / "source.mkv", tmp_path / name
    make_film(source, Making(sound=sound))
    clip = video.read_clip(source)
    (note,) = video.write_clip(out, clip)
    assert f"{sound.removeprefix('lib')} sound of source.mkv could not be copied into {out.suffix}" in note
    assert times(out) == [at * MS for at in UNEVEN] and packets(out, "audio") == []
    assert video.write_clip(tmp_path / "out.mkv", clip) == []
    assert packets(tmp_path / "out.mkv", "audio") == packets(source, "audio")


def sound_cut_off(path: Path) -> None:
    """Cuts off the file's end, where the last sound packets lie; its index lies at the front."""
    path.write_bytes(path.read_bytes()[:-2000])


def sound_overwritten(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-2000:-500] = np.random.default_rng(0).bytes(1500)
    path.write_bytes(content)


def file_gone(path: Path) -> None:
    path.unlink()


def file_replaced(path: Path) -> None:
    path.write_text("something else")


@pytest.mark.parametrize("damage", [sound_cut_off, sound_overwritten, file_gone, file_replaced])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_damaged_sound_never_prevents_writing_the_edit(
    tmp_path: Path, damage: Callable[[Path], None], suffix: str
) -> None:
    source, out = tmp_path / "source.mkv", tmp_path / f"out{suffix}"
    make_film(source, Making())
    clip = video.read_clip(source)
    whole = packets(source, "audio")
    damage(source)
    notes = video.write_clip(out, clip)
    assert times(out)[-1] - times(out)[0] == 250 * MS and len(video.read_clip(out)) == 5
    assert notes or set(packets(out, "audio")) & set(whole)


def test_an_mp4_whose_sound_is_cut_off_keeps_the_rest_of_it_and_says_so(tmp_path: Path) -> None:
    full, source, out = (tmp_path / name for name in ("full.mkv", "source.mp4", "out.mp4"))
    make_film(full, Making("ffv1", "bgr0", sound="pcm_s16le", times=(0, 10, 20), last=10))
    video.write_clip(source, video.read_clip(full))
    sound_cut_off(source)
    (note,) = video.write_clip(out, video.read_clip(source))
    assert "sound of source.mp4" in note
    assert 40_000 < sum(map(len, packets(out, "audio"))) < sum(map(len, packets(full, "audio"))) == 57_600
    assert len(video.read_clip(out)) == 3


def test_an_mp4_whose_picture_is_cut_off_behind_sound_is_refused(tmp_path: Path) -> None:
    full, source = tmp_path / "full.mkv", tmp_path / "source.mp4"
    make_film(full, Making(sound="pcm_s16le", times=(0, 100, 200, 400, 500)))
    video.write_clip(source, video.read_clip(full))
    sound_cut_off(source)
    with pytest.raises(InputError, match=r"its end is missing.*only [1-4] of its frames"):
        video.read_clip(source)


# Whole edits


def test_an_edit_keeps_sound_and_timing_of_the_file(tmp_path: Path, checkpoint: Path, scene: Scene) -> None:
    source, out = tmp_path / "source.mkv", tmp_path / "result.mp4"
    make_film(source, Making("ffv1", "bgr0"), scene.source)
    result = loraedit.edit(
        source, scene.edited_first, scene.mask, model=str(checkpoint), steps=1, out=out, prompt="a coat",
        source_prompt="a coat",
    )  # fmt: skip
    assert result.outside_exact and result.notes == result.summary()["notes"] == []
    assert np.array_equal(video.read_clip(result.files.frames).frames[~scene.mask], scene.source[~scene.mask])
    assert times(out) == [at * MS for at in UNEVEN] and packets(out, "audio") == packets(source, "audio")


def test_another_codec_reuses_the_finished_edit(tmp_path: Path, checkpoint: Path, scene: Scene) -> None:
    for codec in ("h264", "h265"):
        result = loraedit.edit(
            scene.source, scene.edited_first, scene.mask,
            model=str(checkpoint), steps=1, out=tmp_path / "a.mp4", codec=codec,
        )  # fmt: skip
    assert result.reused == ["train motion", "sample"]
