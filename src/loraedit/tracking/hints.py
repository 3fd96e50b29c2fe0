"""From a few points, strokes and boxes in a frame to the object that is meant."""

from __future__ import annotations

from collections.abc import Iterable

import cv2
import numpy as np

from loraedit.tracking.base import Box, Hints, Point, Stroke
from loraedit.tracking.regions import cut, filled, grown, parts, touching
from loraedit.tracking.scale import Scale
from loraedit.types import Image, Plane, Size

__all__ = ["corrected", "seed_from_hints"]

ALIKE = 10
"""Grey levels by which a pixel may differ from its neighbour for a flood from a point to go on."""
LARGEST = 0.5
"""Share of the frame beyond which what grew from points has run out into the background."""

BRUSH_PX = 2
"""Radius of points and strokes, in pixels at the size of tracking."""


def seed_from_hints(image: Image, hints: Hints) -> Plane:
    """The object that the hints show: its mask, with GrabCut within the boxes, or from points and strokes on.

    Args:
        image: uint8 ``[H, W, 3]``.
        hints: they show the object.

    Returns:
        bool ``[H, W]``, True = object; every point on the object is True, and every point off it False.
    """
    assert hints.shows
    seed = np.zeros(image.shape[:2], np.bool_) if hints.mask is None else hints.mask
    if hints.boxes or hints.points or hints.strokes:
        seed = seed | _cut_out(image, hints)
    elif hints.points_out or hints.strokes_out:
        seed = corrected(image, seed, hints)
    return _as_pointed(seed, hints)


def corrected(image: Image, mask: Plane, hints: Hints) -> Plane:
    """A mask with what points and strokes add to it, and without what they take away.

    Args:
        image: uint8 ``[H, W, 3]``.
        mask: bool ``[H, W]``, the object as found so far.
        hints: points and strokes.
    """
    if hints.points or hints.strokes:
        mask = mask | _cut_out(image, hints)
    if hints.points_out or hints.strokes_out:
        scale = Scale.of(Size(*image.shape[:2]))
        small, shape = scale.image(image), scale.small[::-1]
        on, off = (
            _spots(hints.points, hints.strokes, scale, shape),
            _spots(hints.points_out, hints.strokes_out, scale, shape),
        )
        mask = mask & ~(scale.back(_flooded(small, off) & ~on) | scale.back(off))
    return _as_pointed(mask, hints)


def _as_pointed(mask: Plane, hints: Hints) -> Plane:
    """Points count as given."""
    seed = mask.copy()
    for points, value in ((hints.points_out, False), (hints.points, True)):
        for x, y in points:
            seed[y, x] = value
    return seed


def _cut_out(image: Image, hints: Hints) -> Plane:
    scale = Scale.of(Size(*image.shape[:2]))
    small = scale.image(image)
    height, width = small.shape[:2]
    on = _spots(hints.points, hints.strokes, scale, (height, width))
    off = _spots(hints.points_out, hints.strokes_out, scale, (height, width))
    boxed = _boxed(hints.boxes, scale, (height, width))
    likely = boxed if hints.boxes else _flooded(small, on)
    outside = (~boxed if hints.boxes else np.zeros_like(on)) & ~on | off & ~on
    found = cut(small, likely.astype(np.float32), on, outside if outside.any() else _rim(on), rounds=4)
    kept = touching(found, on) if on.any() else found
    if not hints.boxes and kept.mean() > LARGEST:
        kept = likely & ~off
    if hints.boxes and kept.sum() < 0.1 * boxed.sum():
        kept = boxed & ~off
    return scale.back(filled(kept | on) & ~off)


def _spots(points: Iterable[Point], strokes: Iterable[Stroke], scale: Scale, shape: tuple[int, int]) -> Plane:
    """A small disk round every point, and the strokes of a brush."""
    spots = np.zeros(shape, np.uint8)
    for line in [*((point,) for point in points), *strokes]:
        small = [[int((x + 0.5) * shape[1] / scale.width), int((y + 0.5) * shape[0] / scale.height)] for x, y in line]
        cv2.polylines(spots, [np.array([*small, small[-1]], np.int32)], False, 1)
    return grown(spots > 0, BRUSH_PX)


def _boxed(boxes: tuple[Box, ...], scale: Scale, shape: tuple[int, int]) -> Plane:
    inside = np.zeros((scale.height, scale.width), np.bool_)
    for x0, y0, x1, y1 in boxes:
        inside[y0:y1, x0:x1] = True
    return scale.plane(inside) if boxes else np.zeros(shape, np.bool_)


def _flooded(image: Image, spots: Plane) -> Plane:
    """What can be reached from the spots without crossing an edge."""
    smooth = np.asarray(cv2.bilateralFilter(image, 7, 25, 5), np.uint8)
    reached = np.zeros((image.shape[0] + 2, image.shape[1] + 2), np.uint8)
    how = 4 | cv2.FLOODFILL_MASK_ONLY | (1 << 8)
    for part in parts(spots):
        y, x = (int(np.median(axis)) for axis in np.nonzero(part))
        reached[y + 1, x + 1] = 0
        cv2.floodFill(smooth, reached, (x, y), (0, 0, 0), (ALIKE,) * 3, (ALIKE,) * 3, how)
    return np.asarray(grown(reached[1:-1, 1:-1] > 0, 2) | spots)


def _rim(spots: Plane) -> Plane:
    """The outermost pixels of the frame, where no point lies: background for want of better."""
    rim = np.ones_like(spots)
    rim[2:-2, 2:-2] = False
    return rim & ~grown(spots, 8)
