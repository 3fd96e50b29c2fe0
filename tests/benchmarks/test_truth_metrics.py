"""Every metric against a true edit gives the known value, and measures only inside its region."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from metric_clips import grey, middle, noise_clip, sliding

from benchmarks import truth_metrics
from loraedit.errors import InputError, ShapeError
from loraedit.evaluate.frames import CLEAR_LEVELS


def test_psnr_of_a_known_difference() -> None:
    assert truth_metrics.psnr(grey(100), grey(110)) == pytest.approx(10 * np.log10(255**2 / 100))


def test_identical_frames_score_the_best_there_is() -> None:
    clip = noise_clip()
    assert truth_metrics.psnr(clip, clip) == 100.0
    assert truth_metrics.ssim(clip, clip) == pytest.approx(1.0)


def test_psnr_is_capped_also_where_a_single_pixel_differs() -> None:
    one = grey(100, frames=200, size=256)
    other = one.copy()
    other[0, 0, 0, 0] += 1
    assert truth_metrics.psnr(one, other) == 100.0


def test_a_difference_outside_the_region_does_not_count() -> None:
    truth = noise_clip()
    region = middle(truth)
    frames = truth.copy()
    frames[~region] = 255 - frames[~region]
    assert truth_metrics.psnr(frames, truth, region) == 100.0
    assert truth_metrics.psnr(frames, truth) < 15
    assert truth_metrics.psnr(frames, truth, ~region) < truth_metrics.psnr(frames, truth)


def test_black_against_white_is_zero_decibel() -> None:
    assert truth_metrics.psnr(grey(0), grey(255)) == pytest.approx(0.0)


def test_ssim_falls_with_noise_and_only_where_it_is() -> None:
    truth = sliding(1)
    region = middle(truth)
    frames = truth.copy()
    frames[:, :4] = noise_clip(*truth.shape[:3], seed=1)[:, :4]  # further away than the window reaches
    assert truth_metrics.ssim(frames, truth, region) == pytest.approx(1.0)
    assert truth_metrics.ssim(frames, truth) < 0.95
    frames[region] = noise_clip(*truth.shape[:3], seed=2)[region]
    assert truth_metrics.ssim(frames, truth, region) < 0.5


def test_ssim_of_two_flat_greys_is_its_luminance_term() -> None:
    c1 = (0.01 * 255) ** 2
    assert truth_metrics.ssim(grey(100), grey(120)) == pytest.approx((2 * 100 * 120 + c1) / (100**2 + 120**2 + c1))


def test_ssim_refuses_frames_smaller_than_its_window() -> None:
    with pytest.raises(ShapeError, match="at least 6 pixels"):
        truth_metrics.ssim(grey(1, size=5), grey(1, size=5))


def test_a_border_lies_on_both_sides_of_the_edge() -> None:
    mask = np.zeros((1, 1, 12), np.bool_)
    mask[..., 6:] = True
    assert np.flatnonzero(truth_metrics.border(mask, 1)).tolist() == [5, 6]
    assert np.flatnonzero(truth_metrics.border(mask, 3)).tolist() == [3, 4, 5, 6, 7, 8]


def test_the_edge_of_the_frame_is_no_border() -> None:
    assert not truth_metrics.border(np.ones((1, 8, 8), np.bool_), 3).any()


def test_an_empty_region_and_shapes_that_differ_are_refused() -> None:
    clip = noise_clip()
    empty = np.zeros(clip.shape[:3], np.bool_)
    for measure in (truth_metrics.psnr, truth_metrics.ssim):
        with pytest.raises(InputError, match="empty"):
            measure(clip, clip, empty)
        with pytest.raises(ShapeError, match="same frames, height and width"):
            measure(clip, clip[:, 1:], empty)
        with pytest.raises(ShapeError, match="same frames, height and width"):
            measure(clip, clip, empty[:-1])


def test_the_truth_is_nearer_to_the_truth_and_the_source_is_not() -> None:
    source, truth = grey(50), grey(150)
    everywhere = np.ones(source.shape[:3], np.bool_)
    assert truth_metrics.nearer_to_truth(truth, truth, source, everywhere) == 1.0
    assert truth_metrics.nearer_to_truth(source, truth, source, everywhere) == 0.0
    assert truth_metrics.nearer_to_truth(grey(100), truth, source, everywhere) == 0.0  # a tie
    half = np.concatenate([truth[:2], source[2:]])
    assert truth_metrics.nearer_to_truth(half, truth, source, everywhere) == 0.5


def test_only_clearly_edited_pixels_of_the_region_are_counted() -> None:
    source = grey(50)
    truth, frames, region = source.copy(), source.copy(), np.zeros(source.shape[:3], np.bool_)
    truth[:, 0], frames[:, 0] = 150, 150  # edited and right
    truth[:, 1] = 50 + CLEAR_LEVELS  # not clearly edited
    truth[:, 2] = 150  # edited and missed, outside the region
    region[:, :2] = True
    assert truth_metrics.nearer_to_truth(frames, truth, source, region) == 1.0
    with pytest.raises(InputError, match="do not differ clearly"):
        truth_metrics.nearer_to_truth(frames, source, source, region)


@given(st.lists(st.floats(-100, 100), min_size=2, max_size=30), st.integers(0, 3))
def test_a_bootstrap_interval_lies_within_the_differences_and_is_repeatable(values: list[float], seed: int) -> None:
    interval = truth_metrics.paired_bootstrap(values, seed, draws=500)
    assert min(values) - 1e-9 <= interval.low <= interval.high <= max(values) + 1e-9
    assert interval.mean == pytest.approx(np.mean(values))
    assert interval == truth_metrics.paired_bootstrap(values, seed, draws=500)


def test_a_bootstrap_interval_holds_the_mean_and_has_the_width_of_theory() -> None:
    values = np.random.default_rng(1).normal(0.5, 2.0, 400)
    mean, low, high = truth_metrics.paired_bootstrap(values.tolist())
    assert low < mean < high
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.05)


def test_one_difference_is_its_own_interval_and_none_is_refused() -> None:
    assert truth_metrics.paired_bootstrap([0.25]) == (0.25, 0.25, 0.25)
    with pytest.raises(InputError, match="no differences"):
        truth_metrics.paired_bootstrap([])
