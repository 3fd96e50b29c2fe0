"""Segmentation of an object in one frame from points, strokes and boxes."""

from __future__ import annotations

from collections.abc import Iterable

import cv2
import numpy as np

from loraedit.tracking.base import Box, Hints, Point, Stroke
from loraedit.tracking.regions import connected_parts, filled, grabcut, grown, touching
from loraedit.tracking.scale import Scale
from loraedit.types import Image, Plane, Size

__all__ = ["corrected", "seed_from_hints"]

FLOOD_LEVELS = 10
"""The largest difference of a pixel from its neighbour, in grey levels, that a flood fill crosses."""
MAX_SHARE = 0.5
"""Share of the frame; a segmentation from points that is larger has leaked into the background."""

BRUSH_PX = 2
"""Radius of points and strokes, in pixels at the tracking size."""


def seed_from_hints(image: Image, hints: Hints) -> Plane:
    """Segments the object that the hints show: its mask, GrabCut inside the boxes, or growth from points and strokes.

    Args:
        image: uint8 ``[H, W, 3]``.
        hints: some of them lie on the object.

    Returns:
        bool ``[H, W]``, True = object; every point on the object is True, and every point off it is False.
    """
    assert hints.shows
    seed = np.zeros(image.shape[:2], np.bool_) if hints.mask is None else hints.mask
    if hints.boxes or hints.points or hints.strokes:
        seed = seed | _segment(image, hints)
    elif hints.points_out or hints.strokes_out:
        seed = corrected(image, seed, hints)
    return _with_points(seed, hints)


def corrected(image: Image, mask: Plane, hints: Hints) -> Plane:
    """Corrects a mask by points and strokes: those on the object add to it, those off it remove from it.

    Args:
        image: uint8 ``[H, W, 3]``.
        mask: bool ``[H, W]``, the object as found so far.
        hints: points and strokes.
    """
    if hints.points or hints.strokes:
        mask = mask | _segment(image, hints)
    if hints.points_out or hints.strokes_out:
        scale = Scale.of(Size(*image.shape[:2]))
        small, shape = scale.image(image), scale.small[::-1]
        on, off = (
            _spots(hints.points, hints.strokes, scale, shape),
            _spots(hints.points_out, hints.strokes_out, scale, shape),
        )
        mask = mask & ~(scale.back(_flooded(small, off) & ~on) | scale.back(off))
    return _with_points(mask, hints)


def _with_points(mask: Plane, hints: Hints) -> Plane:
    """Sets every point on the object to True, and every point off it to False."""
    seed = mask.copy()
    for points, value in ((hints.points_out, False), (hints.points, True)):
        for x, y in points:
            seed[y, x] = value
    return seed


def _segment(image: Image, hints: Hints) -> Plane:
    """Segments what boxes, points and strokes show."""
    scale = Scale.of(Size(*image.shape[:2]))
    small = scale.image(image)
    height, width = small.shape[:2]
    on = _spots(hints.points, hints.strokes, scale, (height, width))
    off = _spots(hints.points_out, hints.strokes_out, scale, (height, width))
    boxed = _boxed(hints.boxes, scale, (height, width))
    likely = boxed if hints.boxes else _flooded(small, on)
    outside = (~boxed if hints.boxes else np.zeros_like(on)) & ~on | off & ~on
    found = grabcut(small, likely.astype(np.float32), on, outside if outside.any() else _frame_rim(on), rounds=4)
    kept = touching(found, on) if on.any() else found
    if not hints.boxes and kept.mean() > MAX_SHARE:
        kept = likely & ~off
    if hints.boxes and kept.sum() < 0.1 * boxed.sum():
        kept = boxed & ~off
    return scale.back(filled(kept | on) & ~off)


def _spots(points: Iterable[Point], strokes: Iterable[Stroke], scale: Scale, shape: tuple[int, int]) -> Plane:
    """Draws a small disk at every point, and the strokes of a brush."""
    spots = np.zeros(shape, np.uint8)
    for line in [*((point,) for point in points), *strokes]:
        small = [[int((x + 0.5) * shape[1] / scale.width), int((y + 0.5) * shape[0] / scale.height)] for x, y in line]
        cv2.polylines(spots, [np.array([*small, small[-1]], np.int32)], False, 1)
    return grown(spots > 0, BRUSH_PX)


def _boxed(boxes: tuple[Box, ...], scale: Scale, shape: tuple[int, int]) -> Plane:
    """Draws the boxes at the tracking size."""
    inside = np.zeros((scale.height, scale.width), np.bool_)
    for x0, y0, x1, y1 in boxes:
        inside[y0:y1, x0:x1] = True
    return scale.plane(inside) if boxes else np.zeros(shape, np.bool_)


def _flooded(image: Image, spots: Plane) -> Plane:
    """Returns what can be flooded from the spots without crossing an edge."""
    smooth = np.asarray(cv2.bilateralFilter(image, 7, 25, 5), np.uint8)
    flooded = np.zeros((image.shape[0] + 2, image.shape[1] + 2), np.uint8)
    how = 4 | cv2.FLOODFILL_MASK_ONLY | (1 << 8)
    for part in connected_parts(spots):
        y, x = (int(np.median(axis)) for axis in np.nonzero(part))
        flooded[y + 1, x + 1] = 0
        cv2.floodFill(smooth, flooded, (x, y), (0, 0, 0), (FLOOD_LEVELS,) * 3, (FLOOD_LEVELS,) * 3, how)
    return np.asarray(grown(flooded[1:-1, 1:-1] > 0, 2) | spots)


def _frame_rim(spots: Plane) -> Plane:
    """Returns the rim of the frame, away from the points; it serves as background if nothing else does."""
    rim = np.ones_like(spots)
    rim[2:-2, 2:-2] = False
    return rim & ~grown(spots, 8)
