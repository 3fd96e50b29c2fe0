"""How frames lie in a file, turned, mirrored or as two fields, and that what is written lies in the same way."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from clips import difference
from films import QUARTER_TURN_CLOCKWISE, Making, ffmpeg, make_film, stored, times, turn
from scenes import Scene

import loraedit
from loraedit import video
from loraedit.job.prepare import prepare
from loraedit.job.request import EditRequest
from loraedit.types import Size

RAW = ("-fps_mode", "passthrough", "-f", "rawvideo", "-pix_fmt", "rgb24", "-")
TURNS = [
    (*("-display_rotation", degrees), *flip) for degrees in (0, 90, 180, 270) for flip in ((), ("-display_hflip",))
]


@pytest.mark.parametrize("turned", TURNS, ids=lambda turned: " ".join(map(str, turned)))
def test_all_eight_orientations_are_edited_upright_and_stored_as_they_were(tmp_path: Path, turned: Any) -> None:
    """Compared with what ffmpeg makes of the files, turned and as they are stored."""
    source = tmp_path / "source.mov"
    make_film(source, Making("png", "rgb24", sound=None, turned=turned))
    clip = video.read_clip(source)
    assert clip.frames.tobytes() == ffmpeg("-i", source, *RAW)
    for name, codec in (("out.mov", "png"), ("out.mp4", "h264"), ("out.mkv", "ffv1")):
        assert video.write_clip(tmp_path / name, clip, codec) == []  # type: ignore[arg-type]
        assert stored(tmp_path / name) == stored(source)
        assert times(tmp_path / name) == times(source)
    lying = [ffmpeg("-noautorotate", "-i", tmp_path / name, *RAW) for name in ("source.mov", "out.mov", "out.mkv")]
    assert lying[0] == lying[1] == lying[2]
    video.write_clip(tmp_path / "frames", clip)
    assert np.array_equal(video.read_clip(tmp_path / "frames").frames, clip.frames)


@pytest.mark.parametrize(
    ("matrix", "in_mkv"),
    [
        ((46341, 46341, 0, -46341, 46341, 0, 0, 0, 1 << 30), (46340, 46340, 0, -46340, 46340, 0, 0, 0, 1 << 30)),
        ((0, 98304, 0, -65536, 0, 0, 9 << 16, 0, 1 << 30), QUARTER_TURN_CLOCKWISE),
        ((65536, 20000, 0, 0, -65536, 0, 0, 0, 1 << 30), (65536, 0, 0, 0, -65536, 0, 0, 0, 1 << 30)),
    ],
    ids=["an eighth of a turn", "stretched and moved", "sheared"],
)
def test_a_matrix_of_another_kind_is_kept_and_in_mkv_the_nearest_turn(tmp_path: Path, matrix: Any, in_mkv: Any) -> None:
    make_film(tmp_path / "source.mp4", Making(sound=None))
    turn(tmp_path / "source.mp4", matrix)
    clip = video.read_clip(tmp_path / "source.mp4")
    for name, expected in (("a.mp4", matrix), ("a.mkv", in_mkv)):
        video.write_clip(tmp_path / name, clip)
        assert stored(tmp_path / name) == (72, 64, 1, expected)
    assert np.array_equal(video.read_clip(tmp_path / "a.mkv").frames, clip.frames)


@pytest.mark.parametrize("name", ["out.mp4", "out.mov", "out.mkv"])
def test_a_turned_film_with_wide_pixels_is_written_as_it_was(tmp_path: Path, name: str) -> None:
    source, out = tmp_path / "source.mp4", tmp_path / name
    make_film(source, Making(aspect=Fraction(4, 3), turned=("-display_rotation", "270")))
    clip = video.read_clip(source)
    assert clip.size == Size(72, 64) and video.write_clip(out, clip, "h264") == []
    assert stored(out) == stored(source) == (72, 64, Fraction(4, 3), QUARTER_TURN_CLOCKWISE)
    written = video.read_clip(out)
    assert written.size == clip.size and difference(written.frames, clip.frames).max() <= 8


@pytest.mark.parametrize("first", ["tff", "bff"])
@pytest.mark.parametrize(
    ("name", "encoder", "size"),
    [("a.mp4", "libx264", "96x64"), ("a.avi", "dvvideo", "720x576"), ("a.mkv", "ffv1", "96x64")],
)
def test_interlaced_film_stays_so_with_the_same_field_first(
    tmp_path: Path, name: str, encoder: str, size: str, first: str
) -> None:
    fields = f"testsrc2=s={size}:r=50:d=0.04,interlace=scan={first}"
    ffmpeg("-f", "lavfi", "-i", fields, "-c:v", encoder, "-pix_fmt", "yuv420p", "-flags", "+ildct", tmp_path / name)
    clip = video.read_clip(tmp_path / name)
    for out, codec in (("h264.mp4", "h264"), ("png.mov", "png"), ("prores.mov", "prores"), ("ffv1.mkv", "ffv1")):
        video.write_clip(tmp_path / out, clip, codec)  # type: ignore[arg-type]
        written = video.open_footage(tmp_path / out).origin
        assert written is not None and written.fields in {"tff": (2, 4), "bff": (3, 5)}[first]


def test_who_edits_interlaced_film_is_told_before_the_work_begins(tmp_path: Path, scene: Scene) -> None:
    ffmpeg("-f", "lavfi", "-i", "color=s=44x36:r=25:d=0.2,setfield=tff", "-c:v", "ffv1", tmp_path / "a.mkv")
    settings = loraedit.settings.make_settings({})
    job = prepare(EditRequest(tmp_path / "a.mkv", scene.edited_first, scene.mask, settings=settings))
    assert "a.mkv is interlaced" in job.notes[0]


@pytest.mark.parametrize("name", ["out.mov", "out.mp4", "out.mkv"])
def test_the_timecode_of_a_camera_goes_along(tmp_path: Path, name: str) -> None:
    source = tmp_path / "source.mov"
    make_film(source, Making("prores_ks", "yuv422p10le", options=("-timecode", "01:02:03:04")))
    footage = video.open_footage(source)
    assert video.write_footage(tmp_path / name, footage.rgb(), footage) == []
    with av.open(str(tmp_path / name)) as container:
        said = {key.lower(): value for key, value in container.streams.video[0].metadata.items()}
    assert said["timecode"] == "01:02:03:04"
