"""Finished masks made plain, steady and soft."""

from __future__ import annotations

from pathlib import Path

import forked
import numpy as np
import pytest
from squares import square_at, write_mask_inputs

from loraedit.tracking import filled, hulls, soft_border, steady
from loraedit.types import Plane
from loraedit.video import read_clip


def ring() -> Plane:
    ys, xs = np.mgrid[:40, :60]
    distance = np.hypot(ys - 20, xs - 30)
    return np.asarray((distance < 15) & (distance > 6))


def test_holes_are_filled_and_bays_are_not() -> None:
    assert filled(ring())[20, 30] and filled(ring()).sum() > ring().sum()
    bay = ring()
    bay[20, 30:] = False
    assert not filled(bay)[20, 30]


def test_a_hull_has_no_dents() -> None:
    corner = np.zeros((20, 20), bool)
    corner[2:18, 2:5] = corner[15:18, 2:18] = True
    hull = hulls(corner)
    assert hull[corner].all() and hull[10, 8] and not hull[4, 16]


def test_a_border_read_at_half_is_the_mask() -> None:
    soft = soft_border(ring(), 4)
    assert np.array_equal(soft >= 128, ring())
    assert len(np.unique(soft)) > 6
    assert np.isin(soft_border(ring(), 0), (0, 255)).all()


def test_flicker_goes_and_motion_stays() -> None:
    planes = [square_at(10 + 6 * index) for index in range(5)]
    planes[2] = planes[2].copy()
    planes[2][25:33, 22:26] = False  # a bite out of one frame's corner
    calm = steady(planes, 2)
    assert (calm & square_at(22)).sum() > planes[2].sum()
    assert (calm & ~square_at(22)).sum() < 60
    assert np.array_equal(steady(planes[:1], 0), planes[0])
    assert not steady([planes[0], np.zeros_like(planes[0])], 1).any()


@pytest.mark.parametrize("shape", ["hull", "outline"])
def test_the_command_takes_strokes_shapes_and_overrides(tmp_path: Path, shape: str) -> None:
    write_mask_inputs(tmp_path)
    options = ["mask", "source.mkv", "--stroke", "0:12,30,24,44", "--shape", shape, "--margin", "0.05"]
    options += ["--smooth", "1", "--fill-holes", "--override", "3=seed.png", "--feather-px", "2", "--out", "m"]
    done = forked.run(options, tmp_path)
    assert done.returncode == 0, done.stderr
    mask = read_clip(tmp_path / "m").frames[..., 0]
    assert np.array_equal(mask[3] >= 128, square_at(8))
    assert (mask[1][square_at(12)] >= 128).mean() > 0.95 and (mask[1] >= 128).sum() < 3 * square_at(12).sum()
    assert 0 < mask[1][mask[1] > 0].min() < 128
