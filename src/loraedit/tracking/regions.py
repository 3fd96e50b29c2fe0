"""Shapes in one frame: holes, islands, surroundings, and where an object ends."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from loraedit.optical_flow.fields import Field
from loraedit.types import Image, Plane

__all__ = ["around", "closed", "cut", "filled", "grown", "opened", "parts", "shrunk", "touching", "without_islands"]


def _disk(radius: int) -> NDArray[np.uint8]:
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1)), np.uint8)


def _morphed(mask: Plane, how: int, radius: int) -> Plane:
    if radius < 1:
        return mask
    return np.asarray(cv2.morphologyEx(mask.astype(np.uint8), how, _disk(radius)) > 0)


def grown(mask: Plane, radius: int) -> Plane:
    """Grown by a disk of so many pixels."""
    return _morphed(mask, cv2.MORPH_DILATE, radius)


def shrunk(mask: Plane, radius: int) -> Plane:
    """Shrunk by a disk of so many pixels."""
    return _morphed(mask, cv2.MORPH_ERODE, radius)


def opened(mask: Plane, radius: int) -> Plane:
    """Without what is thinner than a disk."""
    return _morphed(mask, cv2.MORPH_OPEN, radius)


def closed(mask: Plane, radius: int) -> Plane:
    """With gaps filled that are narrower than a disk."""
    padded = np.pad(mask, radius)
    return _morphed(padded, cv2.MORPH_CLOSE, radius)[radius : radius + mask.shape[0], radius : radius + mask.shape[1]]


def around(mask: Plane, radius: int) -> Plane:
    """The ring outside a mask."""
    return grown(mask, radius) & ~mask


def filled(mask: Plane) -> Plane:
    """Without holes."""
    outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    full = np.zeros(mask.shape, np.uint8)
    cv2.drawContours(full, list(outlines), -1, 1, cv2.FILLED)
    return np.asarray(full > 0)


def parts(mask: Plane) -> list[Plane]:
    """The connected parts, the largest first."""
    count, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    sizes = np.bincount(labels.ravel(), minlength=count)[1:]
    return [np.asarray(labels == index + 1) for index in np.argsort(-sizes, kind="stable").tolist()]


def touching(mask: Plane, other: Plane) -> Plane:
    """The connected parts of a mask that meet another one."""
    kept = [part for part in parts(mask) if (part & other).any()]
    return np.asarray(np.any(kept, axis=0)) if kept else np.zeros_like(mask)


def without_islands(mask: Plane, share: float) -> Plane:
    """Without parts that are smaller than a share of the largest."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    if count < 2:
        return mask
    areas = stats[1:, cv2.CC_STAT_AREA]
    keep = np.concatenate([[False], areas >= share * areas.max()])
    return np.asarray(keep[labels])


def cut(image: Image, likely: Field, inside: Plane, outside: Plane, rounds: int = 1) -> Plane:
    """GrabCut: the outline that fits the colours best, between what is surely inside and what is surely outside.

    Args:
        image: uint8 ``[H, W, 3]``.
        likely: ``[H, W]`` in [0, 1], above a half where a pixel is rather inside.
        inside: bool ``[H, W]``, surely inside.
        outside: bool ``[H, W]``, surely outside.
        rounds: how often colours and outline are fitted to each other.

    Returns:
        bool ``[H, W]``; ``likely`` above a half where there is nothing to tell the sides apart by.
    """
    first = np.asarray((likely > 0.5) & ~outside | inside)
    window = _window(~outside, 12)
    codes = np.where(first, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    codes[outside], codes[inside] = cv2.GC_BGD, cv2.GC_FGD
    codes = np.ascontiguousarray(codes[window])
    on = np.isin(codes, (cv2.GC_FGD, cv2.GC_PR_FGD))
    if min(on.sum(), (~on).sum()) < 20:
        return first
    cv2.setRNGSeed(0)
    piece, no_box = np.ascontiguousarray(image[window]), (0, 0, 0, 0)
    cv2.grabCut(piece, codes, no_box, np.zeros((1, 65)), np.zeros((1, 65)), rounds, cv2.GC_INIT_WITH_MASK)
    result = np.zeros_like(first)
    result[window] = np.isin(codes, (cv2.GC_FGD, cv2.GC_PR_FGD))
    return result


def _window(mask: Plane, margin: int) -> tuple[slice, slice]:
    """The box of a mask and some more; the whole frame if it is empty."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return slice(None), slice(None)
    return (
        slice(max(int(rows[0]) - margin, 0), int(rows[-1]) + 1 + margin),
        slice(max(int(columns[0]) - margin, 0), int(columns[-1]) + 1 + margin),
    )
