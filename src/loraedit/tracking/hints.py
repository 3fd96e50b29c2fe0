"""From a few points and boxes in a frame to the object that is meant."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from loraedit.tracking.base import Plane
from loraedit.tracking.regions import cut, filled, grown, parts, touching
from loraedit.tracking.scale import Scale
from loraedit.types import Image

__all__ = ["Hints", "seed_from_hints"]

ALIKE = 10
"""Grey levels by which a pixel may differ from its neighbour for a flood from a point to go on."""
LARGEST = 0.5
"""Share of the frame beyond which what grew from points has run out into the background."""

Point = tuple[int, int]  # x, y in pixels
Box = tuple[int, int, int, int]  # x0, y0, x1, y1 in pixels, x1 and y1 exclusive


@dataclass(frozen=True)
class Hints:
    """What a user showed in one frame, in pixels, x to the right and y down.

    Attributes:
        points: on the object.
        points_out: not on the object.
        boxes: round the object.
    """

    points: tuple[Point, ...] = ()
    points_out: tuple[Point, ...] = ()
    boxes: tuple[Box, ...] = ()


def seed_from_hints(image: Image, hints: Hints) -> Plane:
    """The object that the hints show: GrabCut within the boxes, or from the points on.

    Args:
        image: uint8 ``[H, W, 3]``.
        hints: at least one point on the object, or one box.

    Returns:
        bool ``[H, W]``, True = object; every point on the object is True, and every point off it False.
    """
    assert hints.points or hints.boxes
    scale = Scale.of(image[None])
    small = scale.image(image)
    height, width = small.shape[:2]
    on, off = (_spots(points, scale, (height, width)) for points in (hints.points, hints.points_out))
    boxed = _boxed(hints.boxes, scale, (height, width))
    likely = boxed if hints.boxes else _flooded(small, on)
    outside = (~boxed if hints.boxes else np.zeros_like(on)) & ~on | off & ~on
    found = cut(small, likely.astype(np.float32), on, outside if outside.any() else _rim(on), rounds=4)
    kept = touching(found, on) if hints.points else found
    if not hints.boxes and kept.mean() > LARGEST:
        kept = likely & ~off
    if hints.boxes and kept.sum() < 0.1 * boxed.sum():
        kept = boxed & ~off
    seed = scale.back(filled(kept | on) & ~off)
    for points, value in ((hints.points_out, False), (hints.points, True)):
        for x, y in points:
            seed[y, x] = value
    return seed


def _spots(points: tuple[Point, ...], scale: Scale, shape: tuple[int, int]) -> Plane:
    """A small disk round every point."""
    spots = np.zeros(shape, np.bool_)
    for x, y in points:
        row, column = int((y + 0.5) * shape[0] / scale.height), int((x + 0.5) * shape[1] / scale.width)
        spots[row, column] = True
    return grown(spots, 2)


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
