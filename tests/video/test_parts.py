"""A part of a clip has what belongs to its frames: their bits, their timing, and the sound of their time."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from films import MS, UNEVEN, Making, make_film, times
from scenes import make_scene

from loraedit.types import Clip
from loraedit.video import open_footage, read_clip, write_clip, write_part


def sound(path: Path) -> dict[Fraction, bytes]:
    """The packets of sound by the time at which they begin."""
    with av.open(str(path)) as container:
        return {packet.pts * packet.time_base: bytes(packet) for packet in container.demux(audio=0) if packet.size}


@pytest.mark.parametrize(("first", "stop"), [(0, 3), (1, 4), (2, 5)])
@pytest.mark.parametrize("name", ["out.mkv", "out.mov"])
def test_sound_and_timing_stay_together(tmp_path: Path, first: int, stop: int, name: str) -> None:
    source, part = tmp_path / "source.mp4", tmp_path / "part.mkv"
    make_film(source, Making(sound="aac"))
    assert write_part(part, open_footage(source), first, stop) == []
    begin, end = ((*UNEVEN, UNEVEN[-1] + 70)[at] * MS for at in (first, stop))
    assert times(part) == [at * MS - begin for at in UNEVEN[first:stop]]
    due = {at - begin: packet for at, packet in sound(source).items() if begin <= at < end}
    kept = sound(part)
    assert list(kept.values()) == list(due.values()) != []
    assert all(abs(one - other) <= MS for one, other in zip(kept, due, strict=True))
    write_clip(tmp_path / name, read_clip(part))  # what is edited and written goes on from the part
    assert list(sound(tmp_path / name).values()) == list(due.values())


def test_a_part_keeps_all_bits(tmp_path: Path) -> None:
    source, part = tmp_path / "source.mkv", tmp_path / "part.mkv"
    make_film(source, Making("ffv1", "gbrp10le", sound=None))
    footage = open_footage(source)
    assert write_part(part, footage, 1, 3) == []
    kept = open_footage(part)
    assert kept.depth == footage.depth == 10
    for one, other in zip(kept.exact(), footage.exact(1, 3), strict=True):
        assert np.array_equal(one, other)


def test_a_part_has_only_the_chapters_of_its_time(tmp_path: Path) -> None:
    source, part = tmp_path / "source.mkv", tmp_path / "part.mkv"
    marks = {"before": (0, 900), "across": (900, 1600), "after": (1700, 2000)}
    with av.open(str(source), "w") as container:
        picture = container.add_stream("ffv1", rate=5)
        picture.width, picture.height, picture.pix_fmt = 44, 36, "bgr0"
        container.set_chapters(
            [{"id": index, "start": start, "end": end, "time_base": MS, "metadata": {"title": title}}
             for index, (title, (start, end)) in enumerate(marks.items())]
        )  # fmt: skip
        for frame in make_scene(10).source:
            container.mux(picture.encode(av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(format="bgr0")))
        container.mux(picture.encode())
    write_part(part, open_footage(source), 5, 8)  # from 1000 up to 1600 ms
    with av.open(str(part)) as container:
        (kept,) = container.chapters()
    assert kept["metadata"]["title"] == "across"
    assert (kept["start"] * kept["time_base"], kept["end"] * kept["time_base"]) == (0, 600 * MS)


def test_a_part_of_what_has_no_file_is_its_frames(tmp_path: Path) -> None:
    scene = make_scene()
    write_part(tmp_path / "part.mkv", Clip(scene.source, Fraction(5)), 1, 3)
    assert np.array_equal(read_clip(tmp_path / "part.mkv").frames, scene.source[1:3])
