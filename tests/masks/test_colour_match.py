"""Drift of colours disappears at the mask's border; what is no drift stays, and so does everything outside the mask.

The model is simulated: it returns the true clip a little blurred, with noise, and with a drift of 6 grey levels. The
*step* is the low-pass filtered difference to the truth in the 6 pixels inside the border; outside there is none.
"""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from scenes import EXAMPLE

from loraedit.masks.colour_match import MAX_SHIFT, match_colours
from loraedit.types import Frames, Mask
from loraedit.video import read_clip

FRAMES = 12
BORDER_PX = 6
Floats = NDArray[np.float64]

SOURCE: Frames = read_clip(EXAMPLE / "source.mkv").frames[:FRAMES]
HEIGHT, WIDTH = SOURCE.shape[1:3]
BOX = slice(40, 150), slice(30, 100)
CORE = slice(70, 120), slice(50, 80)
"""The part of the box in which the edit inverts the picture."""

X = np.linspace(-1, 1, WIDTH)[None, None, :, None]
Y = np.linspace(-1, 1, HEIGHT)[None, :, None, None]
T = np.arange(FRAMES)[:, None, None, None]
UNIFORM = np.array([6.0, -6.0, 6.0])
DRIFTS = {
    "uniform": UNIFORM,
    "over the frame": UNIFORM * np.sin(np.pi * (X + Y) / 2),
    "over time": UNIFORM * np.cos(2 * np.pi * T / 24),
}


def in_box(*box: slice) -> Mask:
    mask = np.zeros(SOURCE.shape[:3], np.bool_)
    mask[:, *box] = True
    return mask


MASK = in_box(*BOX)
NOWHERE = np.zeros_like(MASK)
UNCHANGED = MASK & ~in_box(slice(60, 130), slice(42, 88))
TRUTH = np.where(in_box(*CORE)[..., None], 255 - SOURCE, SOURCE)


def model(truth: Frames, drift: float | Floats = 0.0) -> Frames:
    """Returns the truth as a model would generate it."""
    blurred = np.stack([cv2.GaussianBlur(frame.astype(np.float64), (0, 0), 1) for frame in truth])
    noisy = blurred + np.random.default_rng(0).normal(0, 3, truth.shape) + drift
    return np.rint(noisy).clip(0, 255).astype(np.uint8)


def step(frames: Frames, without_drift: Frames) -> float:
    """Returns the mean step at the border in grey levels that drift has caused."""
    inner = in_box(*(slice(side.start + BORDER_PX, side.stop - BORDER_PX) for side in BOX))
    border = (MASK & ~inner).astype(np.float64)
    difference = (frames.astype(np.float64) - without_drift) * border[..., None]
    steps = []
    for frame, where in zip(difference, border, strict=True):
        mean = cv2.GaussianBlur(frame, (0, 0), 4) / np.maximum(cv2.GaussianBlur(where, (0, 0), 4), 1e-6)[..., None]
        steps.append(np.abs(mean[where > 0]).mean())
    return float(np.mean(steps))


def psnr(frames: Frames, truth: Frames) -> float:
    error = (frames.astype(np.float64) - truth)[MASK]
    return float(10 * np.log10(255**2 / np.square(error).mean()))


@pytest.mark.parametrize("unchanged", [NOWHERE, UNCHANGED], ids=["outside alone", "and inside"])
@pytest.mark.parametrize("name", DRIFTS)
def test_the_step_across_the_border_falls_by_at_least_80_percent(name: str, unchanged: Mask) -> None:
    generated, without = model(TRUTH, DRIFTS[name]), model(TRUTH)
    matched = match_colours(generated, SOURCE, MASK, unchanged)
    before, after = step(generated, without), step(matched, without)
    assert before > 2.5
    assert after < 0.2 * before
    assert psnr(matched, TRUTH) > psnr(generated, TRUTH)


def test_a_uniform_drift_disappears_in_the_whole_mask() -> None:
    matched = match_colours(model(TRUTH, UNIFORM), SOURCE, MASK, NOWHERE)
    assert np.abs((matched.astype(np.float64) - model(TRUTH))[:, *CORE].mean((1, 2))).max() < 0.5


def test_drift_inside_alone_disappears_at_the_border_where_the_edit_changes_nothing() -> None:
    generated, without = model(TRUTH, UNIFORM * MASK[..., None]), model(TRUTH)
    matched = match_colours(generated, SOURCE, MASK, UNCHANGED)
    assert step(matched, without) < 0.2 * step(generated, without)


@pytest.mark.parametrize("name", DRIFTS)
def test_nothing_outside_the_mask_changes_by_a_bit(name: str) -> None:
    generated = model(TRUTH, DRIFTS[name])
    assert np.array_equal(match_colours(generated, SOURCE, MASK, UNCHANGED)[~MASK], generated[~MASK])


@pytest.mark.parametrize("share", [0.0, 1.0], ids=["step", "gradient"])
def test_a_true_change_of_light_at_the_border_stays(share: float) -> None:
    """The edit lightens the whole box by 12 levels, at once or rising from the border, and the model is right."""
    middle = (Y > -2) * (1 - np.abs(np.linspace(-1, 1, BOX[1].stop - BOX[1].start)))[None, None, :, None]
    light = np.zeros((1, HEIGHT, WIDTH, 1))
    light[:, *BOX] = 12 * (1 - share + share * middle[:, BOX[0]])
    truth = np.rint(SOURCE + light).clip(0, 255).astype(np.uint8)
    generated = model(truth)
    matched = match_colours(generated, SOURCE, MASK, NOWHERE)
    assert psnr(matched, truth) > psnr(generated, truth) - 0.1


GLOW = 14 * np.exp(-((X - X[0, 0, 65]) ** 2 * (WIDTH / HEIGHT) ** 2 + (Y - Y[0, 40]) ** 2) / (2 * 0.3**2))
"""Light that the user paints across the upper border of the box, in grey levels, ``[1, H, W, 1]``."""


def glow_in_mask(frames: Frames, without: Frames) -> float:
    """Returns the strength of the glow in the mask as a multiple of what the user painted."""
    where = np.broadcast_to(GLOW, frames.shape)[MASK]
    return float(((frames.astype(np.float64) - without)[MASK] * where).sum() / np.square(where).sum())


@pytest.mark.parametrize("drift", [0.0, UNIFORM, -UNIFORM], ids=["no drift", "drift", "inverse drift"])
@pytest.mark.parametrize("beyond", [True, False], ids=["glows outside", "source outside"])
def test_painted_light_that_crosses_the_border_is_no_drift(beyond: bool, drift: float | Floats) -> None:
    """The model generates the glow on both sides of the border, or in the mask alone."""
    truth = np.rint(SOURCE + GLOW).clip(0, 255).astype(np.uint8)
    truth = truth if beyond else np.where(MASK[..., None], truth, SOURCE)
    light = np.broadcast_to(GLOW, SOURCE.shape).astype(np.float32)
    matched = match_colours(model(truth, drift), SOURCE, MASK, NOWHERE, light)
    assert 0.8 < glow_in_mask(matched, model(SOURCE)) < 1.2
    if np.any(drift):
        assert step(matched, model(truth)) < 0.3 * step(model(truth, drift), model(truth))
    if beyond:
        unaware = match_colours(model(truth), SOURCE, MASK, NOWHERE)
        assert glow_in_mask(unaware, model(SOURCE)) < 0.6, "without the light, the glow is taken for drift"


def test_painted_light_gives_garbage_no_weight() -> None:
    light = np.broadcast_to(GLOW, SOURCE.shape).astype(np.float32)
    for kind in ("noise", "blobs", "mirrored", "grey"):
        generated = np.where(MASK[..., None], model(TRUTH, UNIFORM), garbage(kind))
        change = np.abs(match_colours(generated, SOURCE, MASK, NOWHERE, light).astype(int) - generated)
        assert change.max() <= 1 and change[MASK].mean() < 0.1


def test_a_model_without_drift_loses_nothing() -> None:
    generated = model(TRUTH)
    matched = match_colours(generated, SOURCE, MASK, UNCHANGED)
    assert psnr(matched, TRUTH) > psnr(generated, TRUTH) - 0.02


def garbage(kind: str) -> Frames:
    noise = np.random.default_rng(1).integers(0, 256, SOURCE.shape).astype(np.uint8)
    if kind == "noise":
        return noise
    if kind == "blobs":
        blobs = np.stack([cv2.GaussianBlur(frame.astype(np.float64), (0, 0), 8) for frame in noise])
        return (SOURCE.mean() + 50 * (blobs - blobs.mean()) / blobs.std()).clip(0, 255).astype(np.uint8)
    if kind == "mirrored":
        return np.ascontiguousarray(SOURCE[:, ::-1, ::-1])
    return np.full_like(SOURCE, 128)


@pytest.mark.parametrize("kind", ["noise", "blobs", "mirrored", "grey"])
def test_something_else_outside_the_mask_has_no_weight(kind: str) -> None:
    generated = np.where(MASK[..., None], model(TRUTH, UNIFORM), garbage(kind))
    change = np.abs(match_colours(generated, SOURCE, MASK, NOWHERE).astype(int) - generated)
    assert change.max() <= 1 and change[MASK].mean() < 0.1


def test_edges_that_are_off_by_a_pixel_hide_no_drift_and_make_none() -> None:
    shifted = np.roll(SOURCE, 1, 2)
    for drift, most in ((0 * UNIFORM, 0.5), (UNIFORM, 1.2)):
        generated = np.where(MASK[..., None], model(TRUTH, drift), model(shifted, drift))
        assert step(match_colours(generated, SOURCE, MASK, NOWHERE), model(TRUTH)) < most


def test_the_correction_is_bounded_and_larger_differences_are_no_drift() -> None:
    for levels in (10, 16, 20, 23, 30, 60):
        generated = (SOURCE // 2 + 60).astype(np.uint8)
        matched = match_colours(generated + np.uint8(levels), generated, MASK, UNCHANGED)
        change = np.abs(matched.astype(int) - (generated + np.uint8(levels)))
        assert change.max() <= MAX_SHIFT
        assert change[MASK].min() == levels if levels == 10 else (levels < 24 or not change.any())


def test_the_correction_does_not_flicker() -> None:
    """The drift jumps by 2 levels from frame to frame; the correction changes by less than half as much."""
    jumping = UNIFORM / 3 * (T % 2)
    generated = model(TRUTH, jumping)
    shift = (match_colours(generated, SOURCE, MASK, NOWHERE).astype(np.float64) - generated)[:, *CORE].mean((1, 2))
    assert np.abs(np.diff(shift, axis=0)).max() < 1


@pytest.mark.parametrize("mask", [np.ones_like(MASK), NOWHERE], ids=["all", "nothing"])
def test_without_a_border_nothing_changes(mask: Mask) -> None:
    generated = model(TRUTH, UNIFORM)
    assert np.array_equal(match_colours(generated, SOURCE, mask, UNCHANGED), generated)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 9), (33, 17), (64, 65)])
def test_frames_of_any_size_can_be_matched(height: int, width: int) -> None:
    below = np.full((3, height, width, 3), 100, np.uint8)
    mask = np.zeros((3, height, width), np.bool_)
    mask[:, : (height + 1) // 2, : (width + 1) // 2] = True
    matched = match_colours(below + np.uint8(4), below, mask, mask)
    assert np.array_equal(matched[~mask], (below + np.uint8(4))[~mask])
    if min(height, width) > 16:
        assert np.array_equal(matched[mask], below[mask])
