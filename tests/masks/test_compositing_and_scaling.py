"""Sizes, value ranges and clip lengths are right, and pixels outside the mask never change."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from loraedit.errors import InputError, ShapeError
from loraedit.masks import compositing
from loraedit.types import Size
from loraedit.video import scaling

quick = settings(max_examples=50, deadline=None)
seeds = st.integers(0, 2**31)


def noise(seed: int, *shape: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def every_byte() -> NDArray[np.uint8]:
    return np.arange(256).astype(np.uint8)


# working_size


def test_working_size_of_a_full_hd_clip() -> None:
    assert scaling.working_size(Size(1080, 1920), 832 * 480, 16) == Size(480, 848)
    assert scaling.working_size(Size(1920, 1080), 832 * 480, 16) == Size(848, 480)


def test_working_size_leaves_a_size_that_fits_alone() -> None:
    assert scaling.working_size(Size(480, 832), 480 * 832, 16) == Size(480, 832)


def test_working_size_has_at_least_one_multiple_on_each_side() -> None:
    assert scaling.working_size(Size(1, 1000), 64 * 64, 16).height == 16


@quick
@given(st.integers(1, 4000), st.integers(1, 4000), st.integers(1, 10**6), st.sampled_from([1, 8, 16, 32]))
def test_working_size_sides_are_within_half_a_multiple_of_the_ideal(h: int, w: int, area: int, multiple: int) -> None:
    size = scaling.working_size(Size(h, w), area, multiple)
    scale = (area / (h * w)) ** 0.5
    for side, ideal in ((size.height, h * scale), (size.width, w * scale)):
        assert side % multiple == 0 and side >= multiple
        assert side == multiple or abs(side - ideal) <= multiple / 2 + 1e-6


@pytest.mark.parametrize(("size", "area", "multiple"), [(Size(0, 5), 9, 1), (Size(5, 5), 0, 1), (Size(5, 5), 9, 0)])
def test_working_size_refuses_zeros(size: Size, area: int, multiple: int) -> None:
    with pytest.raises(InputError, match="above zero"):
        scaling.working_size(size, area, multiple)


# resize_frames


def test_resize_to_the_same_size_is_the_identity() -> None:
    frames = scaling.to_float(noise(0, 2, 5, 7, 3))
    assert scaling.resize_frames(frames, Size(5, 7)) is frames


@pytest.mark.parametrize("size", [Size(5, 9), Size(9, 5), Size(1, 1), Size(4, 3), Size(16, 12), Size(8, 1)])
def test_resize_keeps_a_flat_colour_and_the_dtype(size: Size) -> None:
    frames = np.full((2, 8, 6, 3), 0.25, np.float32)
    resized = scaling.resize_frames(frames, size)
    assert resized.shape == (2, size.height, size.width, 3) and resized.dtype == np.float32
    np.testing.assert_allclose(resized, 0.25, rtol=1e-6)


@pytest.mark.parametrize("size", [Size(1, 1), Size(4, 5), Size(1, 3)])
def test_a_frame_of_one_pixel_can_be_resized(size: Size) -> None:
    frames = np.array([-1, 0, 0.5], np.float32).reshape(1, 1, 1, 3)
    resized = scaling.resize_frames(frames, size)
    assert resized.shape == (1, size.height, size.width, 3)
    np.testing.assert_allclose(resized, np.broadcast_to(frames, resized.shape), atol=1e-6)


def test_resize_takes_each_frame_by_itself_and_keeps_its_place() -> None:
    frames = scaling.to_float(noise(0, 3, 7, 5, 3))
    resized = scaling.resize_frames(frames, Size(4, 9))
    for index in range(3):
        assert np.array_equal(resized[index], scaling.resize_frames(frames[index : index + 1], Size(4, 9))[0])


@pytest.mark.parametrize("size", [Size(4, 8), Size(8, 4), Size(4, 4)])
def test_halving_a_side_averages_pairs(size: Size) -> None:
    frames = scaling.to_float(noise(1, 1, 8, 8, 3))
    halved = scaling.resize_frames(frames, size)
    pairs = frames.reshape(1, size.height, 8 // size.height, size.width, 8 // size.width, 3).mean((2, 4))
    np.testing.assert_allclose(halved, pairs, atol=1e-6)


def test_a_side_that_shrinks_is_averaged_even_while_the_other_grows() -> None:
    frames = scaling.to_float(noise(1, 1, 8, 8, 3))
    at_once = scaling.resize_frames(frames, Size(4, 16))
    assert np.array_equal(at_once, scaling.resize_frames(scaling.resize_frames(frames, Size(4, 8)), Size(4, 16)))


def test_resize_stays_in_range_at_hard_edges() -> None:
    frames = np.ones((1, 16, 16, 3), np.float32)
    frames[:, :, :8] = -1
    resized = scaling.resize_frames(frames, Size(31, 31))
    assert resized.min() == -1 and resized.max() == 1


def test_shrinking_is_antialiased() -> None:
    stripes = np.broadcast_to(np.tile(np.float32([-1, 1]), 32)[None, None, :, None], (1, 64, 64, 3))
    assert np.abs(scaling.resize_frames(stripes, Size(8, 8))).max() < 0.1


# to_float, to_uint8


def test_bytes_survive_conversion_to_float_and_back() -> None:
    assert np.array_equal(scaling.to_uint8(scaling.to_float(every_byte())), every_byte())


def test_float_range_ends_at_minus_one_and_one() -> None:
    values = scaling.to_float(every_byte())
    assert values[0] == -1 and values[255] == 1 and values.dtype == np.float32


def test_to_uint8_clamps_and_takes_zero_to_mid_grey() -> None:
    assert scaling.to_uint8(np.array([-3.0, 0.0, 3.0])).tolist() == [0, 128, 255]


# composite


def test_composite_of_one_pixel_blends_linearly_and_rounds() -> None:
    source, generated = np.array([[[[10, 10, 0]]]], np.uint8), np.array([[[[20, 11, 255]]]], np.uint8)
    result = compositing.composite(source, generated, np.full((1, 1, 1), 0.25, np.float32))
    assert result.flatten().tolist() == [12, 10, 64]


def test_composite_is_exact_at_both_ends_for_every_pair_of_bytes() -> None:
    source = np.broadcast_to(every_byte()[None, :, None, None], (1, 256, 256, 3))
    generated = source.swapaxes(1, 2)
    assert np.array_equal(compositing.composite(source, generated, np.zeros((1, 256, 256), np.float32)), source)
    assert np.array_equal(compositing.composite(source, generated, np.ones((1, 256, 256), np.float32)), generated)


@quick
@given(seeds, st.integers(1, 3), st.integers(1, 6), st.integers(1, 6))
def test_composite_keeps_every_pixel_outside_the_mask(seed: int, f: int, h: int, w: int) -> None:
    source, generated = noise(seed, f, h, w, 3), noise(seed + 1, f, h, w, 3)
    alpha = np.random.default_rng(seed).random((f, h, w), np.float32) * (noise(seed + 2, f, h, w) > 127)
    result = compositing.composite(source, generated, alpha)
    assert np.array_equal(result[alpha == 0], source[alpha == 0])
    low, high = np.minimum(source, generated), np.maximum(source, generated)
    assert bool(((result >= low) & (result <= high)).all())


def test_composite_changes_neither_input() -> None:
    source, generated = noise(0, 1, 2, 2, 3), noise(1, 1, 2, 2, 3)
    before = source.copy(), generated.copy()
    compositing.composite(source, generated, np.full((1, 2, 2), 0.5, np.float32))
    assert np.array_equal(source, before[0]) and np.array_equal(generated, before[1])


@pytest.mark.parametrize("shape", [(2, 4, 4, 3), (1, 4, 5, 3)])
def test_composite_refuses_frames_of_another_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match="the same F, H and W"):
        compositing.composite(noise(0, 1, 4, 4, 3), noise(0, *shape), np.zeros((1, 4, 4), np.float32))


def test_composite_refuses_a_mask_of_another_shape() -> None:
    with pytest.raises(ShapeError, match="mask"):
        compositing.composite(noise(0, 1, 4, 4, 3), noise(0, 1, 4, 4, 3), np.zeros((1, 4, 5), np.float32))


# pad_frames


def test_padded_lengths_for_wan() -> None:
    assert [scaling.padded_length(n, 4) for n in (1, 2, 5, 6, 49, 50)] == [1, 5, 5, 9, 49, 53]


@quick
@given(st.integers(1, 40), st.integers(1, 8))
def test_padding_adds_copies_of_the_last_frame_and_no_more_than_needed(length: int, multiple: int) -> None:
    frames = np.arange(length)[:, None]
    padded = scaling.pad_frames(frames, multiple)
    assert (len(padded) - 1) % multiple == 0 and 0 <= len(padded) - length < multiple
    assert np.array_equal(padded[:length], frames) and bool((padded[length:] == length - 1).all())


def test_masks_can_be_padded_too() -> None:
    assert scaling.pad_frames(np.ones((3, 2, 2), np.bool_), 4).dtype == np.bool_


def test_an_empty_clip_cannot_be_padded() -> None:
    with pytest.raises(InputError, match="at least one frame"):
        scaling.pad_frames(np.zeros((0, 2)), 4)


# restore_detail


def test_detail_comes_back_where_the_model_kept_what_it_was_shown() -> None:
    shown = noise(1, 2, 24, 24, 3)
    soft = np.full_like(shown, 128)
    trusted = np.ones((2, 24, 24), np.float32)
    assert np.array_equal(compositing.restore_detail(soft, shown, soft, trusted), shown)
    assert np.array_equal(compositing.restore_detail(soft, shown, soft, 0 * trusted), soft)


@pytest.mark.parametrize("levels", [-10, 10])
def test_what_the_model_relit_stays(levels: int) -> None:
    """A shadow of 10 grey levels is the model's work, no loss of precision."""
    shown, soft = noise(1, 1, 24, 24, 3), np.full((1, 24, 24, 3), 128, np.uint8)
    relit = (soft.astype(int) + levels).astype(np.uint8)
    trusted = np.ones((1, 24, 24), np.float32)
    assert np.array_equal(compositing.restore_detail(relit, shown, soft, trusted), relit)


def test_detail_comes_back_where_the_model_is_imprecise_but_kept_the_light() -> None:
    shown, soft = noise(1, 1, 24, 24, 3), np.full((1, 24, 24, 3), 128, np.uint8)
    imprecise = np.clip(soft + np.random.default_rng(0).normal(0, 6, soft.shape), 0, 255).astype(np.uint8)
    restored = compositing.restore_detail(imprecise, shown, soft, np.ones((1, 24, 24), np.float32))
    left, before = (np.abs(each.astype(float) - shown).mean() for each in (restored, imprecise))
    assert left < 0.1 * before


def test_pixels_stay_where_the_model_generated_something_else() -> None:
    shown, soft = noise(1, 1, 24, 24, 3), np.full((1, 24, 24, 3), 20, np.uint8)
    made = np.full_like(soft, 220)
    assert np.array_equal(compositing.restore_detail(made, shown, soft, np.ones((1, 24, 24), np.float32)), made)


@quick
@given(st.integers(1, 40), st.integers(1, 40), seeds)
def test_resized_weights_keep_their_range_and_get_the_size(height: int, width: int, seed: int) -> None:
    weights = np.random.default_rng(seed).random((2, 17, 23), np.float32)
    resized = scaling.resize_weights(weights, Size(height, width))
    assert resized.shape == (2, height, width) and resized.dtype == np.float32
    assert resized.min() >= 0 and resized.max() <= 1.000001
    assert np.allclose(scaling.resize_weights(np.ones_like(weights), Size(height, width)), 1)
