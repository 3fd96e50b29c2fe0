"""Real footage through a whole edit with a window and a feather, into a lossless file that has all the source had."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from test_edit import EXAMPLE
from test_fidelity import MS, UNEVEN, Making, length, packets, times
from test_footage import make_film
from test_video import QUARTER_TURN_CLOCKWISE, turn

import loraedit
from loraedit import video
from loraedit.types import Stored
from loraedit.video.pixels import to_rgb


def real_frames(alpha: bool) -> Stored:
    """Five frames of the example clip, with noise in the bits below the eighth, and with opacity from their green."""
    shown = video.read_clip(EXAMPLE / "source.mkv").frames[:5]
    noise = np.random.default_rng(0).integers(0, 256, (*shown.shape[:3], 3 + alpha), np.uint16)
    return np.concatenate([shown, shown[..., 1:2]], -1)[..., : 3 + alpha].astype(np.uint16) * np.uint16(256) + noise


@pytest.mark.parametrize(
    ("name", "encoder", "pixels", "making", "turned", "out_name", "codec", "crop"),
    [
        ("a.mp4", "libx265", "yuv420p10le", Making(aspect=Fraction(4, 3)), True, "out.mov", "png", "follow"),
        ("a.mov", "prores_ks", "yuva444p10le", Making(sound="pcm_s16le"), False, "out.mkv", None, "fixed"),
    ],
    ids=["ten bits, turned, wide pixels", "opacity"],
)
def test_outside_the_mask_a_lossless_result_is_the_source_with_all_that_its_file_says(
    tmp_path: Path, checkpoint: Path, name: str, encoder: str, pixels: str, making: Making, turned: bool,
    out_name: str, codec: Any, crop: str,
) -> None:  # fmt: skip
    path, out = tmp_path / name, tmp_path / out_name
    make_film(path, encoder, pixels, making, real_frames(alpha="a" in pixels))
    if turned:
        turn(path, QUARTER_TURN_CLOCKWISE)
    source = video.open_footage(path)
    stored = np.stack(list(source.exact()))
    mask = np.zeros(stored.shape[:3], bool)
    for index, plane in enumerate(mask):
        plane[30:59, 20 + 4 * index : 51 + 4 * index] = True
    first = to_rgb(stored[0])
    first[mask[0]] = 255 - first[mask[0]]

    result = loraedit.edit(
        path, first, mask, model=str(checkpoint), steps=1, crop=crop, feather_px=4, out=out, codec=codec
    )  # fmt: skip

    assert result.outside_exact and result.notes == []
    written = video.open_footage(out)
    made = np.stack(list(written.exact()))
    assert stored.dtype == made.dtype == np.uint16 and source.alpha == written.alpha == ("a" in pixels)
    assert np.array_equal(made[~mask], stored[~mask]) and np.array_equal(made[..., 3:], stored[..., 3:])
    assert (made[mask] != stored[mask]).any(-1).mean() > 0.5
    assert times(out) == times(path) == [at * MS for at in UNEVEN] and length(out) == length(path)
    assert packets(out, "audio") == packets(path, "audio") != []
    assert written.origin is not None and source.origin is not None
    assert (written.origin.rotation, source.origin.rotation) == (0, 270 if turned else 0)
    assert written.origin.pixel_aspect == source.origin.pixel_aspect == 1 / making.aspect
    with av.open(str(out)) as container:
        assert container.metadata["title"] == "Räder"
        assert container.streams.audio[0].metadata["language"] == "fra"
