"""Real footage through a whole edit with a window and a feather, into a lossless file that has all the source had."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from films import MS, UNEVEN, Making, ffmpeg, length, make_film, packets, stored, tags, times
from numpy.typing import NDArray
from scenes import EXAMPLE

import loraedit
from loraedit import video
from loraedit.types import Footage, Stored
from loraedit.video.pixels import to_rgb

DEEP = "format=rgb48le,scale=96:144"  # what scaling makes below the eighth bit
SEE_THROUGH = "format=rgba64le,scale=96:144,colorchannelmixer=aa=0:ag=1"  # as opaque as it is green
ON_ITS_SIDE, UPSIDE_DOWN = ("-display_rotation", 90), ("-display_rotation", 180)

# What phones, cameras, editing programs and archives give: container, codec, and where the edit of it goes.
FILMS = {
    "a phone's, ten bits, on its side, wide pixels, BT.2020": (
        "a.mp4", Making("libx265", "yuv420p10le", aspect=Fraction(4, 3), tags=(9, 1, 9, 16), filters=DEEP,
                        turned=ON_ITS_SIDE), "out.mov", "png", "follow"),
    "a selfie, mirrored, full range": (
        "a.mov", Making(tags=(6, 2, 6, 6), turned=(*ON_ITS_SIDE, "-display_hflip")), "out.mkv", "ffv1", "fixed"),
    "a title in ProRes 4444": (
        "a.mov", Making("prores_ks", "yuva444p10le", sound="pcm_s16le", filters=SEE_THROUGH), "out.mkv", None, "fixed"),
    "an animation with opacity, on its head": (
        "a.mov", Making("qtrle", "argb", sound="pcm_s16le", filters=SEE_THROUGH, turned=UPSIDE_DOWN),
        "out.mov", "png", "follow"),
    "an archive's, subtitles and chapters": (
        "a.mkv", Making("ffv1", "yuv422p10le", sound="libopus", subtitles="subrip", filters=DEEP),
        "out.mkv", None, "follow"),
}  # fmt: skip


def moving_box(frames: int, height: int, width: int) -> NDArray[np.bool_]:
    mask = np.zeros((frames, height, width), bool)
    for index, plane in enumerate(mask):
        plane[30:59, 20 + 4 * index : 51 + 4 * index] = True
    return mask


def whole(footage: Footage) -> Stored:
    return np.stack(list(footage.exact()))


def about(path: Path) -> dict[str, Any]:
    """All that a file says beside its pixels."""
    with av.open(str(path)) as container:
        languages = [stream.metadata.get("language") for stream in container.streams.audio]
        chapters = [
            (each["metadata"]["title"], float(each["end"] * each["time_base"])) for each in container.chapters()
        ]
        title = container.metadata["title"]
    return {
        "title": title, "languages": languages, "chapters": chapters, "stored": stored(path), "times": times(path),
        "length": length(path), "sound": packets(path, "audio"), "subtitles": packets(path, "subtitle"),
        "light": tags(path)[2:],  # what is lossless is RGB, which has no matrix
    }  # fmt: skip


@pytest.mark.parametrize("film", FILMS)
def test_outside_the_mask_a_lossless_result_is_the_source_with_all_that_its_file_says(
    tmp_path: Path, checkpoint: Path, film: str
) -> None:
    name, making, out_name, codec, crop = FILMS[film]
    path, out = tmp_path / name, tmp_path / out_name
    make_film(path, making, EXAMPLE / "source.mkv")
    source = video.open_footage(path)
    before = whole(source)
    mask = moving_box(*before.shape[:3])
    first = to_rgb(before[0])
    first[mask[0]] = 255 - first[mask[0]]

    result = loraedit.edit(
        path, first, mask, model=str(checkpoint), steps=1, crop=crop, feather_px=4, out=out, codec=codec,
        prompt="a coat", source_prompt="a coat",
    )  # type: ignore[arg-type] # fmt: skip

    assert result.outside_exact and result.notes == []
    after = whole(video.open_footage(out))
    assert before.dtype == after.dtype and before.shape == after.shape
    assert np.array_equal(after[~mask], before[~mask]) and np.array_equal(after[..., 3:], before[..., 3:])
    assert (after[mask] != before[mask]).any(-1).mean() > 0.5
    assert about(out) == about(path)
    assert about(out)["times"] == [at * MS for at in UNEVEN] and about(out)["sound"] and about(out)["title"] == "Räder"


def test_as_ffmpeg_reads_both_files_no_stored_byte_outside_the_mask_differs(tmp_path: Path, checkpoint: Path) -> None:
    """Nothing of loraedit's own reading is trusted here; the mask is turned as the film is."""
    name, making, out_name, codec, crop = FILMS["an animation with opacity, on its head"]
    path, out = tmp_path / name, tmp_path / out_name
    make_film(path, making, EXAMPLE / "source.mkv")
    mask = moving_box(5, 144, 96)
    first = next(video.open_footage(path).rgb())
    loraedit.edit(path, 255 - first, mask, model=str(checkpoint), steps=1, crop=crop, out=out, codec=codec)

    as_stored = ("-fps_mode", "passthrough", "-f", "rawvideo", "-pix_fmt", "rgba", "-")
    before, after = (
        np.frombuffer(ffmpeg("-noautorotate", "-i", file, *as_stored), np.uint8).reshape(5, 144, 96, 4)
        for file in (path, out)
    )
    lying = mask[:, ::-1, ::-1]
    assert np.array_equal(before[~lying], after[~lying]) and not np.array_equal(before, after)
    sound = ("-map", "0:a", "-c", "copy", "-f", "streamhash", "-")
    assert ffmpeg("-i", path, *sound) == ffmpeg("-i", out, *sound)
