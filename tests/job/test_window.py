"""Claims about the window that the model sees."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loraedit.families.skeleton import open_skeleton
from loraedit.job.prepare import prepare
from loraedit.job.request import EditRequest
from loraedit.job.window import choose_window
from loraedit.masks.compositing import lay_over, restore_detail
from loraedit.masks.shaping import feather
from loraedit.masks.tube import MaskTube
from loraedit.settings import Crop, make_settings
from loraedit.types import Mask, Size
from loraedit.video.scaling import from_working, to_working, working_size


def walking(frames: int = 20, height: int = 90, width: int = 200, side: int = 16) -> Mask:
    """A square that walks from left to right."""
    mask = np.zeros((frames, height, width), bool)
    for index in range(frames):
        left = 5 + index * (width - side - 10) // max(1, frames - 1)
        mask[index, 30 : 30 + side, left : left + side] = True
    return mask


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 9), st.integers(3, 70), st.integers(3, 70), st.sampled_from(["auto", "fixed", "follow", "off"]),
    st.floats(0, 2), st.integers(0, 2**31),
)  # fmt: skip
def test_the_mask_is_inside_every_window_and_pasting_undoes_cutting(
    frames: int, height: int, width: int, crop: Crop, context: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    mask = np.zeros((frames, height, width), bool)
    for plane in mask:
        y, x = rng.integers(height), rng.integers(width)
        plane[y : y + rng.integers(0, height), x : x + rng.integers(0, width)] = True
    mask[rng.integers(frames), 1, 1] = True
    clip = rng.integers(0, 256, (frames, height, width, 3), np.uint8)
    window = choose_window(MaskTube(mask), crop, context)
    assert window.cut(mask).sum() == mask.sum()
    assert window.cut(clip).shape == (frames, window.size.height, window.size.width, 3)
    pasted, turned = np.zeros_like(clip), clip.copy()
    for index, piece in enumerate(window.cut(clip)):
        ones = np.ones(piece.shape[:2], np.float32)
        pasted[index] = lay_over(clip[index], piece, ones, window.at(index))
        turned[index] = lay_over(clip[index], 255 - piece, ones, window.at(index))
    assert np.array_equal(pasted, clip)
    assert (turned != clip).any(-1)[mask].all()


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 4), st.integers(3, 60), st.integers(3, 60), st.sampled_from(["fixed", "follow"]),
    st.integers(100, 4000), st.integers(0, 2**31),
)  # fmt: skip
def test_a_window_that_goes_to_the_models_size_and_back_unedited_is_stitched_into_the_very_same_clip(
    frames: int, height: int, width: int, crop: Crop, area_px: int, seed: int
) -> None:
    """What the model's size costs is known where nothing is edited, and given back."""
    rng = np.random.default_rng(seed)
    mask = rng.random((frames, height, width)) < 0.05
    mask[rng.integers(frames), height // 2, width // 2] = True
    clip = rng.integers(0, 256, (frames, height, width, 3), np.uint8)
    window = choose_window(MaskTube(mask), crop, 0.25)
    pieces = window.cut(clip)
    working = to_working(pieces, working_size(window.size, area_px, 8))
    back = from_working(working, window.size)
    restored = restore_detail(back, pieces, back, np.ones(pieces.shape[:3], np.float32))
    alpha = feather(window.cut(mask), 3)
    stitched = [lay_over(clip[i], restored[i], alpha[i], window.at(i)) for i in range(frames)]
    assert np.array_equal(stitched, clip)


def test_each_kind_of_window_is_as_small_as_it_can_be() -> None:
    mask = walking()
    off, fixed, follow = (choose_window(MaskTube(mask), crop, 0.25).size for crop in ("off", "fixed", "follow"))
    assert off == Size(90, 200)
    assert fixed.width > 190 and fixed.height < 40
    assert follow.width < 80 and follow.height < 40


def test_a_following_window_moves_smoothly_and_keeps_up() -> None:
    corners = choose_window(MaskTube(walking()), "follow", 0.25).corners
    steps = np.diff(corners[:, 1])
    assert corners[-1, 1] - corners[0, 1] > 100
    assert steps.min() >= 0 and np.abs(np.diff(steps)).max() <= 3


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        (walking(), "follow"),
        (walking(side=60, width=120), "fixed"),
        (np.ones((3, 40, 40), bool), "off"),
    ],
)
def test_auto_takes_the_window_that_pays(mask: Mask, expected: Crop) -> None:
    assert choose_window(MaskTube(mask), "auto", 0.25).size == choose_window(MaskTube(mask), expected, 0.25).size


def test_a_frame_without_mask_does_not_stop_the_window() -> None:
    mask = walking()
    mask[8:12] = False
    assert choose_window(MaskTube(mask), "follow", 0.25).cut(mask).sum() == mask.sum()


@settings(max_examples=60, deadline=None)
@given(st.integers(3, 90), st.integers(3, 90), st.sampled_from([8, 16, 32]), st.integers(0, 2**31))
def test_a_grown_window_has_whole_multiples_where_they_fit_and_still_contains_the_old_one(
    height: int, width: int, multiple: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    mask = np.zeros((3, height, width), bool)
    for plane in mask:
        plane[rng.integers(height), rng.integers(width)] = True
    window = choose_window(MaskTube(mask), "follow", 0.25)
    grown = window.grown(Size(height, width), multiple)
    for side, limit in ((grown.size.height, height), (grown.size.width, width)):
        assert side % multiple == 0 or side == limit
    for index in range(3):
        for old, new, limit in zip(window.at(index), grown.at(index), (height, width), strict=True):
            assert 0 <= new.start <= old.start and old.stop <= new.stop <= limit
            assert new.stop - new.start < old.stop - old.start + multiple


def test_the_model_works_at_the_windows_very_pixels_where_its_sides_can_be_multiples() -> None:
    mask = np.zeros((3, 480, 832), bool)
    mask[:, 100:300, 300:600] = True
    source = np.zeros((3, 480, 832, 3), np.uint8)
    edited = np.where(mask[0, ..., None], np.uint8(255), source[0])
    with open_skeleton("wan2.1-i2v-14b-480p") as card:
        job = prepare(EditRequest(source, edited, mask, settings=make_settings({"mask_boxes": False})), card=card)
        size = job.targets[0].window.size
        assert card.working_size(size, job.settings) == size == Size(304, 464)
