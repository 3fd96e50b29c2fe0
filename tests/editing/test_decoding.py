"""The colours of a drifting model are matched in the result and in previews, and the option switches it off."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from scenes import EXAMPLE

import loraedit
from loraedit.editing import EditResult
from loraedit.editing.decoding import painted_light, unchanged_pixels
from loraedit.editing.target_clip import open_target_clip
from loraedit.families.vae_codec import VaeCodec
from loraedit.job.prepare import Job, prepare
from loraedit.job.request import EditRequest
from loraedit.settings import make_settings
from loraedit.types import Frames, Pixels, Size
from loraedit.video import read_clip
from loraedit.video.scaling import to_working

SOURCE: Frames = read_clip(EXAMPLE / "source.mkv").frames[:9]
MASK = np.zeros(SOURCE.shape[:3], np.bool_)
for number in range(len(SOURCE)):
    MASK[number, 40:150, 30 + number : 90 + number] = True
CORE = slice(70, 120), slice(50, 70)
EDITED = SOURCE[0].copy()
EDITED[CORE] = 255 - EDITED[CORE]
DRIFT = 6


@pytest.fixture
def drifting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes every model return the source, 6 grey levels brighter."""
    always_return(SOURCE.clip(0, 255 - DRIFT) + np.uint8(DRIFT), monkeypatch)


def always_return(frames: Frames, monkeypatch: pytest.MonkeyPatch) -> None:
    def decode(self: VaeCodec, latents: torch.Tensor, _: torch.device) -> Pixels:
        height, width = (self.card.spatial * side for side in latents.shape[2:])
        return to_working(frames, Size(height, width))

    monkeypatch.setattr(VaeCodec, "decode", decode)


def edit(checkpoint: Path, **settings: object) -> EditResult:
    options: dict[str, Any] = {"model": str(checkpoint), "steps": 1, "sampling_steps": 2, "crop": "off", **settings}
    return loraedit.edit(SOURCE, EDITED, MASK, **options)


def brighter(result: EditResult) -> float:
    """Returns how much brighter the edit zone of the later frames is than the source, in grey levels."""
    return float((result.clip.frames.astype(np.float64) - SOURCE)[2:][MASK[2:]].mean())


@pytest.mark.usefixtures("drifting")
def test_a_drift_of_six_levels_disappears_unless_the_option_is_off(checkpoint: Path, tmp_path: Path) -> None:
    on = edit(checkpoint, run=tmp_path / "run", preview_every=1)
    preview = tmp_path / "run/preview/sample-0001.png"
    matched = preview.read_bytes()
    assert abs(brighter(on)) < 0.2 * DRIFT
    preview.unlink()
    off = edit(checkpoint, run=tmp_path / "run", preview_every=1, match_colours=False)
    assert brighter(off) > 0.8 * DRIFT
    assert off.reused == ["train motion", "sample"], "colours are matched after the latents"
    assert on.outside_exact and off.outside_exact
    again = edit(checkpoint, run=tmp_path / "other", preview_every=1, match_colours=False)
    assert np.array_equal(again.clip.frames, off.clip.frames)
    assert (tmp_path / "other/preview/sample-0001.png").read_bytes() != matched


def test_painted_light_is_as_strong_after_the_edited_frame(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The user lightens the upper half of the frame, the mask is lower, and the model follows the user."""
    light = 14 * np.linspace(2, -2, SOURCE.shape[1])[:, None, None].clip(0, 1)
    lit = np.rint(SOURCE + light).clip(0, 255).astype(np.uint8)
    always_return(lit, monkeypatch)
    options: dict[str, Any] = {"model": str(checkpoint), "steps": 1, "sampling_steps": 2, "crop": "off"}
    result = loraedit.edit(SOURCE, lit[0], MASK, **options)
    inner = np.zeros_like(MASK)
    inner[:, 50:80, 45:85] = True
    later = (frames[2:].astype(np.float64) - SOURCE[2:] for frames in (result.clip.frames, lit))
    found, painted = (added[inner[2:]].mean() for added in later)
    assert painted > 8
    assert found > 0.8 * painted


def job(checkpoint: Path, edited: Frames, **settings: object) -> Job:
    options = {"model": str(checkpoint), "crop": "off", **settings}
    return prepare(EditRequest(SOURCE, edited, MASK, {}, settings=make_settings(options)))


def test_what_the_edited_frame_changes_is_expected_at_the_same_place_in_the_moving_mask(checkpoint: Path) -> None:
    whole = job(checkpoint, EDITED)
    clip = open_target_clip(whole, whole.targets[0])
    unchanged = unchanged_pixels(clip, clip.mask(0, len(SOURCE)))
    assert not (unchanged & ~MASK).any()
    for index, plane in enumerate(unchanged):
        moved = CORE[0], slice(CORE[1].start + index, CORE[1].stop + index)
        assert not plane[moved].any()
        assert plane[41:60, 31 + index : 40 + index].all()


def test_nothing_is_expected_to_stay_if_the_edit_changes_the_whole_frame(checkpoint: Path) -> None:
    whole = job(checkpoint, 255 - SOURCE[0])
    clip = open_target_clip(whole, whole.targets[0])
    assert not unchanged_pixels(clip, clip.mask(0, len(SOURCE))).any()


def test_painted_light_follows_the_moving_mask_and_is_told_from_outside_alone(checkpoint: Path) -> None:
    """The band of light lies half inside the mask, where the edit also inverts the picture."""
    lit = EDITED.copy()
    lit[30:50, 20:110] = lit[30:50, 20:110] // 2 + 60
    whole = job(checkpoint, lit)
    clip = open_target_clip(whole, whole.targets[0])
    light = painted_light(clip, whole.segments[0], clip.mask(0, len(SOURCE)))
    painted = np.where(MASK[0][..., None], 0, lit.astype(np.float32) - SOURCE[0])
    for index in (0, 8):
        full = cv2.resize(light[index], SOURCE.shape[2:0:-1])
        assert np.abs(full[32:38, 40 + index : 80 + index].mean((0, 1)) - painted[32:38, 40:80].mean((0, 1))).max() < 2
        assert np.abs(full[60:140, 40 + index : 80 + index]).max() < 1e-3
        assert np.abs(full[160:]).max() < 1e-3
    plain = job(checkpoint, EDITED)
    assert not painted_light(open_target_clip(plain, plain.targets[0]), plain.segments[0], MASK).any()


def test_the_feather_is_as_wide_as_asked_for_or_by_the_size_of_the_clip(checkpoint: Path) -> None:
    assert job(checkpoint, EDITED).feather_px == 2
    assert job(checkpoint, EDITED, feather_px=0).feather_px == 0
    assert job(checkpoint, EDITED, feather_px=7).feather_px == 7
