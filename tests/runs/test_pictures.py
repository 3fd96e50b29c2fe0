"""The pictures show the frames they name, and the same numbers give the same bytes."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from loraedit.errors import InputError, ShapeError
from loraedit.masks.tube import MaskTube
from loraedit.runs import pictures as report
from loraedit.types import Clip, Frames


def grey_clip(frames: int, height: int = 12, width: int = 8) -> Frames:
    """Frame i is all grey level 5 * i."""
    levels = np.arange(frames, dtype=np.uint8) * 5
    return np.broadcast_to(levels[:, None, None, None], (frames, height, width, 3)).copy()


def film(frames: Frames) -> Clip:
    return Clip(frames, Fraction(24))


@pytest.mark.parametrize(
    ("frame_count", "columns", "expected"),
    [(33, 5, [0, 8, 16, 24, 32]), (3, 6, [0, 1, 2]), (1, 6, [0])],
)
def test_moments_hold_the_first_and_the_last_frame_and_each_frame_once(
    frame_count: int, columns: int, expected: list[int]
) -> None:
    assert report.moments(frame_count, columns) == expected


def test_a_contact_sheet_shows_each_moment_of_source_and_result_in_its_place() -> None:
    source, mask = grey_clip(33), np.zeros((33, 12, 8), np.bool_)
    result = 255 - source
    sheet = np.asarray(report.contact_sheet(film(source), film(result), MaskTube(mask), columns=3, tile_width=40))
    for column, frame in enumerate([0, 16, 32]):
        for row, clip in enumerate([source, source, result]):
            left, top = report._tile_corner(row, column, (40, 60))
            assert (sheet[top : top + 60, left : left + 40] == int(clip[frame, 0, 0, 0])).all()


def test_a_contact_sheet_keeps_the_shape_of_the_frames() -> None:
    narrow = film(grey_clip(5, height=30, width=10))
    sheet = report.contact_sheet(narrow, narrow, MaskTube(np.ones((5, 30, 10), np.bool_)), columns=2, tile_width=50)
    assert sheet.size == report._tile_corner(3, 2, (50, 150))


def test_the_overlay_tints_the_edit_region_and_leaves_the_rest_alone() -> None:
    frame, mask = grey_clip(4)[3], np.zeros((12, 8), np.bool_)
    mask[3:6, 2:5] = True
    tinted = report.overlay_mask(frame, mask)
    assert np.array_equal(tinted[~mask], frame[~mask])
    assert (tinted[mask] != frame[mask]).any(-1).all()


def test_the_overlay_refuses_a_mask_of_another_size() -> None:
    with pytest.raises(ShapeError, match=r"clip is \[12, 8\], the mask \[8, 12\]"):
        report.overlay_mask(grey_clip(4)[0], np.zeros((8, 12), np.bool_))


def test_side_by_side_puts_the_source_left_and_the_result_right() -> None:
    source = grey_clip(3)[2]
    joined = report.side_by_side(source, 255 - source, gap_px=4)
    assert joined.shape == (12, 8 + 4 + 8, 3)
    assert np.array_equal(joined[:, :8], source)
    assert np.array_equal(joined[:, -8:], 255 - source)
    assert (joined[:, 8:12] == 255).all()


@pytest.mark.parametrize("size", [(20, 9000), (17000, 6)])
def test_side_by_side_reduces_what_no_player_shows(size: tuple[int, int]) -> None:
    source = np.zeros((*size, 3), np.uint8)
    joined = report.side_by_side(source, source + np.uint8(200))
    assert joined.shape[0] <= report.SIDE_MAX_PX and joined.shape[1] <= 2 * report.SIDE_MAX_PX + 8
    assert (joined[:, 0] == 0).all() and (joined[:, -1] == 200).all()


def test_side_by_side_and_the_sheet_refuse_what_differs() -> None:
    with pytest.raises(ShapeError, match="same height and width"):
        report.side_by_side(grey_clip(1)[0], grey_clip(1, height=4)[0])
    with pytest.raises(ShapeError, match="same frames"):
        report.contact_sheet(film(grey_clip(3)), film(grey_clip(4)), MaskTube(np.ones((3, 12, 8), np.bool_)))


def test_a_running_mean_of_a_straight_line_is_the_line_away_from_its_ends() -> None:
    line = [2.0 * step for step in range(20)]
    assert report.running_mean(line, window=5)[2:-2] == pytest.approx(line[2:-2])


def test_a_running_mean_at_the_ends_averages_what_is_there() -> None:
    assert report.running_mean([1.0, 2.0, 6.0], window=3) == pytest.approx([1.5, 3.0, 4.0])


def test_the_same_losses_give_the_same_picture_byte_for_byte(tmp_path: Path) -> None:
    steps, losses = list(range(1, 41)), [1 / step for step in range(1, 41)]
    report.loss_curve(tmp_path / "a.png", steps, losses)
    report.loss_curve(tmp_path / "b.png", steps, losses)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_a_loss_curve_names_neither_software_nor_date(tmp_path: Path) -> None:
    report.loss_curve(tmp_path / "loss.png", [1], [0.5])
    with Image.open(tmp_path / "loss.png") as picture:
        assert {"Software", "Creation Time"}.isdisjoint(picture.info)


def test_a_loss_curve_refuses_no_steps_and_uneven_lists(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="at least one step"):
        report.loss_curve(tmp_path / "loss.png", [], [])
    with pytest.raises(ShapeError, match="2 steps and 1 losses"):
        report.loss_curve(tmp_path / "loss.png", [1, 2], [0.5])
