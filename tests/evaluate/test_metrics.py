"""Every metric gives the known value, and measures only inside its region."""

from __future__ import annotations

import numpy as np
import pytest
from metric_clips import grey, middle, noise_clip, sliding, texture

from loraedit.errors import InputError, ShapeError
from loraedit.evaluate import metrics
from loraedit.evaluate.frames import CLEAR_LEVELS
from loraedit.types import Frames


def test_an_empty_region_and_shapes_that_differ_are_refused() -> None:
    clip = noise_clip()
    empty = np.zeros(clip.shape[:3], np.bool_)
    for measure in (metrics.changed_share, metrics.flow_similarity, metrics.flicker):
        with pytest.raises(InputError, match="empty"):
            measure(clip, clip, empty)
        with pytest.raises(ShapeError, match="same frames, height and width"):
            measure(clip, clip[:, 1:], empty)
        with pytest.raises(ShapeError, match="same frames, height and width"):
            measure(clip, clip, empty[:-1])


def test_changed_share_counts_clear_changes_inside_the_mask() -> None:
    source = grey(50)
    mask, frames = middle(source), source.copy()
    frames[:2] = 90
    frames[2:] = 50 + CLEAR_LEVELS
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
