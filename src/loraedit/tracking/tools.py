"""Tools for finished masks: convex hulls, temporal smoothing, and soft borders."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from loraedit.types import Plane

__all__ = ["hulls", "soft_border", "steady"]

_Field = NDArray[np.float32]


def hulls(mask: Plane) -> Plane:
    """Replaces each connected part of a mask ``[H, W]`` by its convex hull."""
    outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    drawn = np.zeros(mask.shape, np.uint8)
    for outline in outlines:
        cv2.fillConvexPoly(drawn, cv2.convexHull(outline), 1)
    return mask | (drawn > 0)


def steady(around: Sequence[Plane], here: int) -> Plane:
    """Removes flicker from the outline of a mask, by averaging the outlines of a few frames.

    The masks are first moved so that their centroids coincide with that of the frame in question. Then their signed
    distances are averaged. Frames with an empty mask do not count, and a frame with an empty mask keeps it.

    Args:
        around: bool ``[H, W]``, the masks of neighbouring frames.
        here: index of the frame in question among them.
    """
    if not around[here].any() or around[here].all():
        return around[here]
    centroid = _centroid(around[here])
    total = np.zeros(around[here].shape, np.float32)
    for mask in around:
        if mask.any() and not mask.all():
            shift = np.array([[1, 0, 0], [0, 1, 0]], np.float32)
            shift[:, 2] = centroid - _centroid(mask)
            size = (mask.shape[1], mask.shape[0])
            total += cv2.warpAffine(_signed_distance(mask), shift, size, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(total > 0)


def soft_border(mask: Plane, radius_px: float) -> NDArray[np.uint8]:
    """Gives a mask a soft border for other programs, uint8 ``[H, W]``: 0 outside, 255 inside.

    The border rises over ``radius_px`` on either side of the outline. Thresholded at 128, it gives the mask again.
    """
    if radius_px <= 0 or not mask.any() or mask.all():
        return np.asarray(mask * np.uint8(255), np.uint8)
    ramp = 0.5 + _signed_distance(mask) / np.float32(2 * radius_px)
    levels = np.rint(ramp.clip(0, 1) * 255)
    return np.asarray(np.where(mask, np.maximum(levels, 128), np.minimum(levels, 127)), np.uint8)


def _signed_distance(mask: Plane) -> _Field:
    """Returns the distance to the border in pixels, positive inside and negative outside, never 0."""
    inside, outside = (
        cv2.distanceTransform(part.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE) for part in (mask, ~mask)
    )
    return np.asarray(np.where(mask, inside - np.float32(0.5), np.float32(0.5) - outside), np.float32)


def _centroid(mask: Plane) -> NDArray[np.float64]:
    """Returns the mean x and y."""
    rows, columns = np.nonzero(mask)
    return np.array([columns.mean(), rows.mean()], np.float64)
