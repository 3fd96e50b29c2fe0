"""Every measure gives the known answer, and measures only where it is told to."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loraedit.errors import InputError, ShapeError
from loraedit.evaluate import metrics
from loraedit.types import Frames, Mask


def noise_clip(frames: int = 4, height: int = 32, width: int = 40, seed: int = 0) -> Frames:
    return np.random.default_rng(seed).integers(0, 256, (frames, height, width, 3), np.uint8)


def texture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A smooth random texture, so that flow can be measured."""
    import cv2

    rough = np.random.default_rng(seed).normal(size=(height, width, 3))
    smooth = cv2.GaussianBlur(rough, (0, 0), 2.0)
    return np.rint(128 + 100 * smooth / np.abs(smooth).max()).astype(np.uint8)


def sliding(step_px: int, frames: int = 5, size: int = 64, seed: int = 0) -> Frames:
    """A texture that moves to the right by so many pixels a frame."""
    margin = abs(step_px) * frames
    wide = texture(size, size + 2 * margin, seed)
    lefts = [margin - step_px * index for index in range(frames)]
    return np.stack([wide[:, left : left + size] for left in lefts])


def grey(level: int, frames: int = 4, size: int = 16) -> Frames:
    return np.full((frames, size, size, 3), level, np.uint8)


def middle(frames: Frames) -> Mask:
    mask = np.zeros(frames.shape[:3], np.bool_)
    height, width = frames.shape[1:3]
    mask[:, height // 4 : -height // 4, width // 4 : -width // 4] = True
    return mask


# ---- PSNR and SSIM ---------------------------------------------------------------------------------------------------


def test_psnr_of_a_known_difference() -> None:
    assert metrics.psnr(grey(100), grey(110)) == pytest.approx(10 * np.log10(255**2 / 100))


def test_identical_frames_score_the_best_there_is() -> None:
    clip = noise_clip()
    assert metrics.psnr(clip, clip) == 100.0
    assert metrics.ssim(clip, clip) == pytest.approx(1.0)


def test_psnr_is_capped_also_where_a_single_pixel_differs() -> None:
    one = grey(100, frames=200, size=256)
    other = one.copy()
    other[0, 0, 0, 0] += 1
    assert metrics.psnr(one, other) == 100.0


def test_a_difference_outside_the_region_does_not_count() -> None:
    truth = noise_clip()
    region = middle(truth)
    frames = truth.copy()
    frames[~region] = 255 - frames[~region]
    assert metrics.psnr(frames, truth, region) == 100.0
    assert metrics.psnr(frames, truth) < 15
    assert metrics.psnr(frames, truth, ~region) < metrics.psnr(frames, truth)


def test_black_against_white_is_zero_decibel() -> None:
    assert metrics.psnr(grey(0), grey(255)) == pytest.approx(0.0)


def test_ssim_falls_with_noise_and_only_where_it_is() -> None:
    truth = sliding(1)
    region = middle(truth)
    frames = truth.copy()
    frames[:, :4] = noise_clip(*truth.shape[:3], seed=1)[:, :4]  # further away than the window reaches
    assert metrics.ssim(frames, truth, region) == pytest.approx(1.0)
    assert metrics.ssim(frames, truth) < 0.95
    frames[region] = noise_clip(*truth.shape[:3], seed=2)[region]
    assert metrics.ssim(frames, truth, region) < 0.5


def test_ssim_of_two_flat_greys_is_its_luminance_term() -> None:
    c1 = (0.01 * 255) ** 2
    assert metrics.ssim(grey(100), grey(120)) == pytest.approx((2 * 100 * 120 + c1) / (100**2 + 120**2 + c1))


def test_ssim_refuses_frames_smaller_than_its_window() -> None:
    with pytest.raises(ShapeError, match="at least 6 pixels"):
        metrics.ssim(grey(1, size=5), grey(1, size=5))


# ---- masks -----------------------------------------------------------------------------------------------------------


def test_a_border_lies_on_both_sides_of_the_edge() -> None:
    mask = np.zeros((1, 1, 12), np.bool_)
    mask[..., 6:] = True
    assert np.flatnonzero(metrics.border(mask, 1)).tolist() == [5, 6]
    assert np.flatnonzero(metrics.border(mask, 3)).tolist() == [3, 4, 5, 6, 7, 8]


def test_the_edge_of_the_frame_is_no_border() -> None:
    assert not metrics.border(np.ones((1, 8, 8), np.bool_), 3).any()


def test_an_empty_region_and_shapes_that_differ_are_refused() -> None:
    clip = noise_clip()
    empty = np.zeros(clip.shape[:3], np.bool_)
    for measure in (metrics.psnr, metrics.ssim, metrics.changed_share, metrics.flow_similarity, metrics.flicker):
        with pytest.raises(InputError, match="empty"):
            measure(clip, clip, empty)
        with pytest.raises(ShapeError, match="same frames, height and width"):
            measure(clip, clip[:, 1:], empty)
        with pytest.raises(ShapeError, match="same frames, height and width"):
            measure(clip, clip, empty[:-1])


# ---- truth and source ------------------------------------------------------------------------------------------------


def test_the_truth_is_nearer_to_the_truth_and_the_source_is_not() -> None:
    source, truth = grey(50), grey(150)
    everywhere = np.ones(source.shape[:3], np.bool_)
    assert metrics.nearer_to_truth(truth, truth, source, everywhere) == 1.0
    assert metrics.nearer_to_truth(source, truth, source, everywhere) == 0.0
    assert metrics.nearer_to_truth(grey(100), truth, source, everywhere) == 0.0  # a tie
    half = np.concatenate([truth[:2], source[2:]])
    assert metrics.nearer_to_truth(half, truth, source, everywhere) == 0.5


def test_only_clearly_edited_pixels_of_the_region_are_counted() -> None:
    source = grey(50)
    truth, frames, region = source.copy(), source.copy(), np.zeros(source.shape[:3], np.bool_)
    truth[:, 0], frames[:, 0] = 150, 150  # edited and right
    truth[:, 1] = 50 + metrics.CLEAR_LEVELS  # not clearly edited
    truth[:, 2] = 150  # edited and missed, outside the region
    region[:, :2] = True
    assert metrics.nearer_to_truth(frames, truth, source, region) == 1.0
    with pytest.raises(InputError, match="do not differ clearly"):
        metrics.nearer_to_truth(frames, source, source, region)


def test_changed_share_counts_clear_changes_inside_the_mask() -> None:
    source = grey(50)
    mask, frames = middle(source), source.copy()
    frames[:2] = 90
    frames[2:] = 50 + metrics.CLEAR_LEVELS
    assert metrics.changed_share(frames, source, mask) == 0.5
    assert metrics.changed_share(source, source, mask) == 0.0


def test_the_worst_difference_outside_is_found_and_the_inside_is_ignored() -> None:
    source = noise_clip()
    mask, frames = middle(source), source.copy()
    frames[mask] = 255 - frames[mask]
    assert metrics.outside_difference(frames, source, mask) == 0
    source[2, 0, 0], frames[2, 0, 0] = (200, 10, 10), (10, 10, 250)
    assert metrics.outside_difference(frames, source, mask) == 240
    assert metrics.outside_difference(frames, source, np.ones_like(mask)) == 0


# ---- motion ----------------------------------------------------------------------------------------------------------


def test_equal_motion_scores_one_and_a_recoloured_clip_nearly() -> None:
    source = sliding(2)
    mask = middle(source)
    assert metrics.flow_similarity(source, source, mask) == 1.0
    assert metrics.flow_similarity(source[..., ::-1] // 2 + 60, source, mask) > 0.9


def test_standing_still_and_moving_the_other_way_score_low() -> None:
    source = sliding(3)
    mask = middle(source)
    still = np.repeat(source[:1], len(source), 0)
    assert metrics.flow_similarity(still, source, mask) < 0.1
    assert metrics.flow_similarity(sliding(-3), source, mask) < 0.1
    assert metrics.flow_similarity(still, still, mask) == 1.0


def test_half_the_speed_scores_two_thirds() -> None:
    """|a - b| = 2 of |a| + |b| = 6: one less a third."""
    source = sliding(4)
    assert metrics.flow_similarity(sliding(2), source, middle(source)) == pytest.approx(2 / 3, abs=0.06)


def test_motion_is_measured_inside_the_mask_only() -> None:
    source = np.concatenate([sliding(2), sliding(2, seed=1)], axis=2)
    frames = source.copy()
    frames[:, :, 64:] = np.repeat(source[:1, :, 64:], len(source), 0)
    left = np.zeros(source.shape[:3], np.bool_)
    left[:, 8:-8, 8:40] = True
    assert metrics.flow_similarity(frames, source, left) > 0.95
    assert metrics.flow_similarity(frames, source, left[:, :, ::-1]) < 0.1


def test_a_still_clip_does_not_flicker_and_a_fade_costs_nothing() -> None:
    still = np.repeat(texture(64, 64)[None], 6, 0)
    mask = middle(still)
    assert metrics.flicker(still, still, mask) == pytest.approx(0.0, abs=0.01)
    fade = still // 2 + (10 * np.arange(6, dtype=np.uint8))[:, None, None, None]
    assert metrics.flicker(fade, still, mask) == pytest.approx(0.0, abs=0.01)


def test_flicker_of_alternating_brightness_is_its_height() -> None:
    """+-d about a level: a pixel is 2 d from the mean of its neighbours."""
    still = np.repeat(texture(64, 64)[None], 6, 0)
    swing = np.where(np.arange(6) % 2 == 0, 120, 130).astype(np.uint8)[:, None, None, None]
    frames = np.broadcast_to(swing, still.shape).copy()
    assert metrics.flicker(frames, still, middle(still)) == pytest.approx(10.0, abs=0.01)


def test_motion_of_the_source_is_followed() -> None:
    moving = sliding(3)
    mask = middle(moving)
    followed = metrics.flicker(moving, moving, mask)
    unfollowed = metrics.flicker(moving, np.repeat(moving[:1], len(moving), 0), mask)
    assert followed < 2 < unfollowed


def test_too_few_frames_for_motion_are_refused() -> None:
    clip = noise_clip(2)
    with pytest.raises(InputError):
        metrics.flow_similarity(clip[:1], clip[:1], middle(clip[:1]))
    with pytest.raises(InputError):
        metrics.flicker(clip, clip, middle(clip))


# ---- image embeddings ------------------------------------------------------------------------------------------------


def mean_colour(frames: Frames) -> np.ndarray:
    """An image encoder: the direction of the mean colour."""
    mean = frames.reshape(len(frames), -1, 3).mean(1)
    return (mean / np.linalg.norm(mean, axis=1, keepdims=True)).astype(np.float32)


def test_similarities_are_mean_cosines_and_the_first_frame_is_not_compared_with_itself() -> None:
    red, blue = np.zeros((2, 3, 8, 8, 3), np.uint8)
    red[..., 0], blue[..., 2] = 255, 255
    mixed = np.concatenate([red[:1], blue[:2]])
    assert metrics.input_similarity(mean_colour, red, red) == pytest.approx(1.0)
    assert metrics.input_similarity(mean_colour, mixed, red) == pytest.approx(1 / 3)
    assert metrics.first_frame_similarity(mean_colour, mixed, red[0]) == pytest.approx(0.0)
    assert metrics.first_frame_similarity(mean_colour, mixed, blue[0]) == pytest.approx(1.0)
    assert metrics.first_frame_similarity(mean_colour, red[:1], red[0]) == pytest.approx(1.0)


# ---- bootstrap -------------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(-100, 100), min_size=2, max_size=30), st.integers(0, 3))
def test_a_bootstrap_interval_lies_within_the_differences_and_is_repeatable(values: list[float], seed: int) -> None:
    interval = metrics.paired_bootstrap(values, seed, draws=500)
    assert min(values) - 1e-9 <= interval.low <= interval.high <= max(values) + 1e-9
    assert interval.mean == pytest.approx(np.mean(values))
    assert interval == metrics.paired_bootstrap(values, seed, draws=500)


def test_a_bootstrap_interval_holds_the_mean_and_has_the_width_of_theory() -> None:
    values = np.random.default_rng(1).normal(0.5, 2.0, 400)
    mean, low, high = metrics.paired_bootstrap(values.tolist())
    assert low < mean < high
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.05)


def test_one_difference_is_its_own_interval_and_none_is_refused() -> None:
    assert metrics.paired_bootstrap([0.25]) == (0.25, 0.25, 0.25)
    with pytest.raises(InputError, match="no differences"):
        metrics.paired_bootstrap([])
