"""What can be done to a finished mask: outlines made plain, flicker taken out, borders softened."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from loraedit.types import Plane

__all__ = ["hulls", "soft_border", "steady"]

_Field = NDArray[np.float32]


def hulls(mask: Plane) -> Plane:
    """A mask ``[H, W]`` with each connected region replaced by its convex hull."""
    outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    drawn = np.zeros(mask.shape, np.uint8)
    for outline in outlines:
        cv2.fillConvexPoly(drawn, cv2.convexHull(outline), 1)
    return mask | (drawn > 0)


def steady(around: Sequence[Plane], here: int) -> Plane:
    """A frame's mask with the flicker of its outline taken out: the mean outline of a few frames, laid on each other.

    The outlines are averaged as signed distances, after each mask was moved so that its middle lies on that of the
    frame in question. Frames without a mask do not count, and a frame without one stays without.

    Args:
        around: bool ``[H, W]``, the masks of neighbouring frames.
        here: which of them is the frame in question.
    """
    if not around[here].any() or around[here].all():
        return around[here]
    middle = _middle(around[here])
    total = np.zeros(around[here].shape, np.float32)
    for mask in around:
        if mask.any() and not mask.all():
            shift = np.array([[1, 0, 0], [0, 1, 0]], np.float32)
            shift[:, 2] = middle - _middle(mask)
            size = (mask.shape[1], mask.shape[0])
            total += cv2.warpAffine(_signed_distance(mask), shift, size, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(total > 0)


def soft_border(mask: Plane, radius_px: float) -> NDArray[np.uint8]:
    """A mask with a soft border for other programs, uint8 ``[H, W]``: black outside, white inside.

    The border rises over ``radius_px`` on either side, so that read at half, from 128 on, it is the mask again.
    """
    if radius_px <= 0 or not mask.any() or mask.all():
        return np.asarray(mask * np.uint8(255), np.uint8)
    ramp = 0.5 + _signed_distance(mask) / np.float32(2 * radius_px)
    levels = np.rint(ramp.clip(0, 1) * 255)
    return np.asarray(np.where(mask, np.maximum(levels, 128), np.minimum(levels, 127)), np.uint8)


def _signed_distance(mask: Plane) -> _Field:
    """Pixels to the border, above 0 inside and below 0 outside; no pixel lies on it."""
    inside, outside = (
        cv2.distanceTransform(part.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE) for part in (mask, ~mask)
    )
    return np.asarray(np.where(mask, inside - np.float32(0.5), np.float32(0.5) - outside), np.float32)


def _middle(mask: Plane) -> NDArray[np.float64]:
    """Mean x and y."""
    rows, columns = np.nonzero(mask)
    return np.array([columns.mean(), rows.mean()], np.float64)
