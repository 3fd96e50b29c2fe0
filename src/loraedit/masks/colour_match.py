"""Matches the colours of generated frames to the frames below, so that the mask's border does not show.

A video model's colours drift by a few grey levels. The drift can be measured where the truth is known:

1. *Outside* the mask the truth is what lies below. The mean difference there is extrapolated over the whole mask,
   because colours drift in the whole frame.
   An edited frame may show light there that the source does not have. The share of it that the model generates is
   fitted, and is no drift.
2. *Inside* the mask, near its border, the truth is known where the edit leaves pixels as they are. What step 1 leaves
   of the difference there is corrected near these pixels only. This finds drift that stops at the border.

Differences are averaged over the cells of a coarse grid, so the correction is smooth. A cell counts by how well its
pixels agree with each other and with the other cells; a model that generates something else gets no correction.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from loraedit.types import Frames, Image, Mask, Plane, Size

__all__ = ["MAX_SHIFT", "match_colours"]

MAX_SHIFT = 16.0
"""The largest correction in grey levels. A larger difference is something else than drift."""

CELLS = 64
"""Cells of the grid along the short side of a frame, at most one per pixel."""

RING = 0.1
"""Width of the ring in which differences are measured, on either side of the border, as a share of the short side."""

SCALE = 0.03
"""Standard deviation of the finest low-pass filter, as a share of the short side."""

OCTAVES = 5
"""Filters of the extrapolation. Each is twice as wide as the one before, and its sum counts a quarter as much."""

SPREAD = 16.0
"""Standard deviation in grey levels of the differences in a cell, beyond the texture below, at which the cell counts
1 / e."""

LEAST_WEIGHT = 0.05
"""Weight above which a cell counts for the median of its frame."""

DEVIATION = 8.0
"""Distance in grey levels from the median of all cells at which a cell counts 1 / e."""

LEAST_TRUSTED, FULLY_TRUSTED = 0.25, 0.5
"""Share of the outer ring that must agree for any correction, and for a full one."""

LEAST_INSIDE = 0.02
"""Filtered weight inside the mask at which the correction near the border is halved; it fades out beyond."""

MEAN_SHARE = 0.1
"""How much the mean over the ring counts against the variation along it, in the fit of the share of painted light. A
drift has a mean as well, but hardly the same pattern as the light."""

NEIGHBOURS = 1.5
"""Standard deviation in frames of the average over neighbouring frames."""

_Grid = NDArray[np.float32]  # [F, gh, gw], or [F, gh, gw, 3]; one frame without F


def match_colours(
    generated: Frames, below: Frames, mask: Mask, unchanged: Mask, light: NDArray[np.float32] | None = None
) -> Frames:
    """Adds a low-frequency correction to generated frames inside the mask; outside, they stay bit for bit.

    Args:
        generated: consecutive frames, uint8 ``[F, H, W, 3]``.
        below: the frames that they will be composited on, uint8 ``[F, H, W, 3]``.
        mask: the edit mask, ``[F, H, W]``.
        unchanged: ``[F, H, W]``, True where the edit should leave a pixel of the mask as it is below.
        light: what the edit adds outside the mask, in grey levels, ``[F, h, w, 3]`` at any size; None means nothing. It
            never reaches the result, but the model may generate it.

    Returns:
        uint8 ``[F, H, W, 3]``. Equal to ``generated`` if the mask covers all frames, or if hardly anything agrees with
        ``below`` outside the mask and where it is unchanged.
    """
    assert generated.dtype == below.dtype == np.uint8 and mask.dtype == unchanged.dtype == np.bool_
    assert generated.shape == below.shape == (*mask.shape, 3) and mask.shape == unchanged.shape
    matched = generated.copy()
    if not mask.any() or mask.all():
        return matched
    light = np.zeros((len(mask), 1, 1, 3), np.float32) if light is None else light
    correction = _correction(generated, below, mask, unchanged, light)
    for index, shift in enumerate(correction):
        if mask[index].any() and shift.any():
            matched[index] = _shifted(generated[index], shift, mask[index])
    return matched


def _correction(generated: Frames, below: Frames, mask: Mask, unchanged: Mask, light: _Grid) -> _Grid:
    """Returns the correction in grey levels by cell, ``[F, gh, gw, 3]``."""
    height, width = mask.shape[1:]
    cell = max(round(min(height, width) / CELLS), 1)
    grid = Size(-(-height // cell), -(-width // cell))
    scale, ring = (max(share * min(height, width) / cell, 1.0) for share in (SCALE, RING))
    mean, agreement = _measure(generated, below, grid)
    outside, inside = _rings(mask, unchanged, grid, max(ring, 2))

    painted = np.stack([cv2.resize(each, (grid.width, grid.height)) for each in light]) * outside[..., None]
    mean = mean + _painted_share(mean, painted, outside * agreement)[:, None, None, None] * painted
    weight = outside * agreement * _plausible(mean, outside * agreement, scale)
    everywhere = _extrapolated(mean, weight, scale) * _trust(weight, outside)[:, None, None, None]
    rest = mean - everywhere
    weight = inside * agreement * _plausible(rest, inside * agreement, scale)
    near_border = _near_measured(rest, weight, 2 * scale)
    return (everywhere + near_border).clip(-MAX_SHIFT, MAX_SHIFT)


def _shifted(frame: Image, shift: _Grid, mask: Plane) -> Image:
    """Adds a correction by cell, ``[gh, gw, 3]``, to the masked pixels of a frame."""
    height, width = mask.shape
    levels = cv2.add(frame, cv2.resize(shift, (width, height)), dtype=cv2.CV_8U)  # rounds and saturates
    shifted: Image = np.where(mask[..., None], levels, frame)
    return shifted


# ---- measured by cell ------------------------------------------------------------------------------------------------


def _measure(generated: Frames, below: Frames, grid: Size) -> tuple[_Grid, _Grid]:
    """Measures the differences ``below - generated`` by cell.

    Returns:
        The mean difference in grey levels, ``[F, gh, gw, 3]``, and how far the pixels of each cell agree on it,
        ``[F, gh, gw]`` in [0, 1].
    """
    mean = np.empty((len(generated), grid.height, grid.width, 3), np.float32)
    agreement = np.empty(mean.shape[:3], np.float32)
    for index, (made, seen) in enumerate(zip(generated, below, strict=True)):
        mean[index], spread = _moments(cv2.subtract(seen, made, dtype=cv2.CV_32F), grid)
        _, texture = _moments(seen.astype(np.float32), grid)
        agreement[index] = np.exp(-np.maximum(spread - texture, 0) / SPREAD**2)  # losing texture is no disagreement
    return mean, agreement


def _moments(frame: _Grid, grid: Size) -> tuple[_Grid, _Grid]:
    """Returns the mean of each cell, ``[gh, gw, 3]``, and its variance, averaged over the channels, ``[gh, gw]``."""
    mean, square = _shrunk(frame, grid), _shrunk(np.einsum("hwc,hwc->hw", frame, frame) / 3, grid)
    variance: _Grid = np.maximum(square - np.square(mean).mean(-1), 0)
    return mean, variance


def _rings(mask: Mask, unchanged: Mask, grid: Size, width: float) -> tuple[_Grid, _Grid]:
    """Returns the cells in which differences are measured, 1 or 0, ``[F, gh, gw]``.

    Cells on the border itself are in neither ring: a VAE mixes the two sides there.

    Args:
        mask: the edit mask, ``[F, H, W]``.
        unchanged: ``[F, H, W]``, True where the edit should leave a pixel as it is.
        grid: height and width of the grid.
        width: width of a ring in cells.

    Returns:
        The ring outside the mask, and the unchanged cells of the ring inside.
    """
    outside, inside = [], []
    for edited, same in zip(mask, unchanged, strict=True):
        covered = _shrunk(edited.astype(np.float32), grid)
        outside.append(~_within(covered > 0, 1) & _within(covered > 0, width))
        inside.append((_shrunk((edited & same).astype(np.float32), grid) > 0.999) & _within(covered < 1, width))
    return np.stack(outside).astype(np.float32), np.stack(inside).astype(np.float32)


def _within(cells: Plane, reach: float) -> Plane:
    """Returns the cells up to a distance in cells from the given ones, ``[gh, gw]``; none if none is given."""
    if not cells.any():
        return cells
    distance = cv2.distanceTransform((~cells).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    within: Plane = distance <= reach
    return within


def _plausible(mean: _Grid, weight: _Grid, scale: float) -> _Grid:
    """Returns how far the differences around each cell can be drift, ``[F, gh, gw]`` in [0, 1].

    They can if they are small, and near the median of their frame. Single cells are noisy where the model loses
    texture, so the differences are filtered first.
    """
    filtered = _blurred(_over_time(_weighted(mean, weight)), scale)
    local = _ratio(filtered)
    plausible: _Grid = (2 - np.abs(local).max(-1) / (0.75 * MAX_SHIFT)).clip(0, 1)  # 0 at 1.5 times MAX_SHIFT
    for index, cells in enumerate(weight > LEAST_WEIGHT):
        if cells.any():
            off = np.abs(local[index] - np.median(local[index][cells], axis=0)).max(-1)
            plausible[index] *= np.exp(-np.square(off / DEVIATION))
    return plausible


def _painted_share(mean: _Grid, painted: _Grid, weight: _Grid) -> _Grid:
    """Returns the share of the painted light that the model generates in each frame, ``[F]`` in [0, 1].

    It is the least-squares fit of ``mean = drift - share * painted``, with one drift for each frame and channel. Cells
    where neither light nor drift explains the difference do not count.
    """
    unexplained = mean - mean.clip(np.minimum(-painted, 0), np.maximum(-painted, 0))
    weight = weight * (2 - np.abs(unexplained).max(-1) / (0.75 * MAX_SHIFT)).clip(0, 1)
    total = _over_time(weight).sum((1, 2)) + np.float32(1e-6)

    def average(values: _Grid) -> _Grid:
        averaged: _Grid = _over_time(weight[..., None] * values).sum((1, 2)) / total[:, None]
        return averaged

    middle, middle_light = average(mean), average(painted)
    product = average(mean * painted) - (1 - MEAN_SHARE) * middle * middle_light
    square = average(painted**2) - (1 - MEAN_SHARE) * middle_light**2
    share: _Grid = np.clip(-product.sum(-1) / (square.sum(-1) + 1), 0, 1)  # light of less than a level has no share
    return share


def _trust(weight: _Grid, ring: _Grid) -> _Grid:
    """Returns how far the outer ring is trusted in each frame, ``[F]`` in [0, 1], by the share of it that agrees."""
    agree, cells = (_over_time(each).sum((1, 2)) for each in (weight, ring))
    share = agree / np.maximum(cells, 1e-6)
    trust: _Grid = np.clip((share - LEAST_TRUSTED) / (FULLY_TRUSTED - LEAST_TRUSTED), 0, 1)
    return trust


def _shrunk(plane: NDArray[np.float32], size: Size) -> _Grid:
    """Averages the pixels of each cell."""
    return np.asarray(cv2.resize(plane, (size.width, size.height), interpolation=cv2.INTER_AREA), np.float32)


# ---- normalised convolution ------------------------------------------------------------------------------------------


def _extrapolated(mean: _Grid, weight: _Grid, scale: float) -> _Grid:
    """Extends weighted differences to all cells by a normalised convolution.

    The kernel is a sum of Gaussians, so it is smooth at 0 and falls with about the fourth power of the distance: near
    the border only the nearest cells count, and far from it all of them do.

    Args:
        mean: ``[F, gh, gw, 3]``.
        weight: ``[F, gh, gw]``.
        scale: standard deviation of the narrowest Gaussian in cells.
    """
    weighted = _over_time(_weighted(mean, weight))
    filtered = np.zeros_like(weighted)
    for octave in range(OCTAVES):
        filtered += _blurred(weighted, scale * 2**octave) / 4**octave
    return _ratio(filtered)


def _near_measured(mean: _Grid, weight: _Grid, scale: float) -> _Grid:
    """Filters weighted differences with one Gaussian; the result fades to 0 away from the measured cells."""
    filtered = _blurred(_over_time(_weighted(mean, weight)), scale)
    return _ratio(filtered, LEAST_INSIDE)


def _weighted(mean: _Grid, weight: _Grid) -> _Grid:
    """Returns weighted differences and weights as four channels."""
    return np.concatenate([weight[..., None] * mean, weight[..., None]], -1)


def _ratio(filtered: _Grid, damping: float = 1e-12) -> _Grid:
    """Divides filtered differences by filtered weights; ``damping`` is added to the weights."""
    ratio: _Grid = filtered[..., :3] / (filtered[..., 3:] + np.float32(damping))
    return ratio


def _over_time(grid: _Grid) -> _Grid:
    """Averages over neighbouring frames; there is nothing beyond the first and the last."""
    rows, border = grid.reshape(len(grid), -1), cv2.BORDER_CONSTANT
    pooled = cv2.GaussianBlur(rows, (1, 0), sigmaX=1e-6, sigmaY=NEIGHBOURS, borderType=border)
    return np.asarray(pooled, np.float32).reshape(grid.shape)


def _blurred(grid: _Grid, sigma: float) -> _Grid:
    blurred = [cv2.GaussianBlur(frame, (0, 0), sigma, borderType=cv2.BORDER_CONSTANT) for frame in grid]
    return np.stack(blurred).astype(np.float32, copy=False)
