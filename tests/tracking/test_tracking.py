"""The embedded tracker follows, finds again, and takes corrections; points and boxes show it what to follow."""

from __future__ import annotations

from fractions import Fraction

import cv2
import numpy as np
import pytest
from squares import HEIGHT, SIDE, WIDTH, ground, moving_square, overlap, patch, square_at

from loraedit.tracking import FlowTracker, Hints, View, seed_from_hints
from loraedit.types import Clip, Frames, Mask, OnStep, Plane, no_step


def follow(frames: Frames, seeds: dict[int, Plane], on_step: OnStep = no_step) -> Mask:
    """The embedded tracker's answer to masks."""
    shown = {index: Hints(mask=seed) for index, seed in seeds.items()}
    return np.stack(list(FlowTracker().track(View(Clip(frames, Fraction(10))), shown, on_step)))


@pytest.mark.parametrize("key", [0, 4, 8])
def test_a_moving_square_is_followed_both_ways(key: int) -> None:
    frames, truth = moving_square([8 + 4 * index for index in range(9)])
    steps: list[tuple[int, int]] = []
    found = follow(frames, {key: truth[key]}, lambda *step: steps.append(step))
    assert found.shape == truth.shape and found.dtype == np.bool_
    assert min(overlap(found, truth)) > 0.8
    assert np.array_equal(found[key], truth[key])
    assert steps == [(done, 8) for done in range(1, 9)]


def test_the_same_clip_gives_the_same_mask() -> None:
    frames, truth = moving_square([10, 14, 18])
    assert np.array_equal(*(follow(frames, {0: truth[0]}) for _ in range(2)))


def test_what_passes_behind_something_is_found_again() -> None:
    frames, truth = moving_square([4 + 5 * index for index in range(17)])
    frames[:, :, 44:74] = (30, 90, 60)
    truth[:, :, 44:74] = False
    found = follow(frames, {0: truth[0]})
    assert not truth[9].any() and found[9].sum() < 0.1 * SIDE**2
    assert min(overlap(found, truth)[-2:]) > 0.7
    assert min(overlap(found, truth)[:4]) > 0.7


def test_a_camera_that_pans_does_not_carry_the_square_along() -> None:
    wide = np.concatenate([ground(), ground(7)], 1)
    frames = np.stack([wide[:, 5 * index : 5 * index + WIDTH] for index in range(8)])
    frames[:, 25 : 25 + SIDE, 50 : 50 + SIDE] = patch()
    truth = np.repeat(square_at(50)[None], 8, 0)
    assert min(overlap(follow(frames, {0: truth[0]}), truth)) > 0.8


def test_a_correction_on_a_later_frame_takes_effect_near_it_and_not_at_the_start() -> None:
    frames, truth = moving_square([10 + 2 * index for index in range(9)])
    other = np.zeros((HEIGHT, WIDTH), bool)
    other[4:16, 90:112] = True
    without, corrected = (follow(frames, seeds) for seeds in ({0: truth[0]}, {0: truth[0], 8: other}))
    assert not (without & other).any()
    assert overlap(corrected[7:], np.stack([other, other]))[0] > 0.5
    assert overlap(corrected[:2], truth[:2])[1] > 0.8


def test_a_single_frame_is_its_own_answer() -> None:
    frames, truth = moving_square([30])
    assert np.array_equal(follow(frames, {0: truth[0]}), truth)


def test_large_frames_are_followed_at_a_reduced_size() -> None:
    frames, truth = moving_square([8 + 3 * index for index in range(3)])
    large = np.stack([cv2.resize(frame, (WIDTH * 5, HEIGHT * 5), interpolation=cv2.INTER_CUBIC) for frame in frames])
    masks = truth.repeat(5, 1).repeat(5, 2)
    assert min(overlap(follow(large, {0: masks[0]}), masks)) > 0.8


@pytest.mark.parametrize(
    "hints", [Hints(points=((41, 36),)), Hints(boxes=((24, 19, 58, 52),)), Hints(((41, 36),), ((4, 4),))]
)
def test_a_point_or_a_box_shows_the_whole_square(hints: Hints) -> None:
    frames, truth = moving_square([30])
    assert overlap(seed_from_hints(frames[0], hints)[None], truth)[0] > 0.7


def test_points_count_as_given() -> None:
    frames, _ = moving_square([30])
    seed = seed_from_hints(frames[0], Hints(((41, 36), (5, 60)), ((33, 28),)))
    assert seed[36, 41] and seed[60, 5] and not seed[28, 33]


def test_a_seed_with_a_margin_keeps_its_margin() -> None:
    frames, truth = moving_square([12 + 4 * index for index in range(7)])
    wide = np.stack([cv2.dilate(mask.astype(np.uint8), np.ones((9, 9), np.uint8)) > 0 for mask in truth])
    found = follow(frames, {0: wide[0]})
    assert min(overlap(found, wide)) > 0.75
    assert (found & wide)[1:].sum() > 1.3 * truth[1:].sum()


def test_a_shadow_goes_where_its_object_goes() -> None:
    frames, truth = moving_square([14 + 4 * index for index in range(8)], top=20)
    for frame, mask, left in zip(frames, truth, range(14, 46, 4), strict=True):
        shadow = np.s_[44:54, left : left + 44]  # soft, and without a texture of its own
        frame[shadow] = (frame[shadow] * 0.55).astype(np.uint8)
        mask[shadow] = True
    found = follow(frames, {0: truth[0]})
    assert min(overlap(found, truth)) > 0.6


def test_points_on_a_later_frame_correct_what_was_found() -> None:
    frames, truth = moving_square([10 + 3 * index for index in range(9)])
    seed = truth[0].copy()
    seed[4:16, 90:112] = True  # background, by mistake
    shown = {0: Hints(mask=seed), 4: Hints(points_out=((100, 10),))}
    clip = View(Clip(frames, Fraction(10)))
    before, after = (np.stack(list(FlowTracker().track(clip, each))) for each in ({0: shown[0]}, shown))
    away = np.s_[4:, 4:16, 90:112]
    assert after[away].sum() < 0.5 * before[away].sum()
    assert min(overlap(after[4:], truth[4:])) > 0.7
