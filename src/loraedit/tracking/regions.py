"""Operations on masks of one frame: morphology, connected parts, and GrabCut."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from loraedit.optical_flow.fields import Field
from loraedit.types import Image, Plane

__all__ = [
    "closed",
    "connected_parts",
    "filled",
    "grabcut",
    "grown",
    "opened",
    "ring",
    "shrunk",
    "touching",
    "without_small_parts",
]


def _disk(radius: int) -> NDArray[np.uint8]:
    """Returns a disk as a structuring element."""
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1)), np.uint8)


def _morphed(mask: Plane, how: int, radius: int) -> Plane:
    """Applies a morphological operation with a disk; a radius below 1 changes nothing."""
    if radius < 1:
        return mask
    return np.asarray(cv2.morphologyEx(mask.astype(np.uint8), how, _disk(radius)) > 0)


def grown(mask: Plane, radius: int) -> Plane:
    """Grows a mask by a disk of some pixels."""
    return _morphed(mask, cv2.MORPH_DILATE, radius)


def shrunk(mask: Plane, radius: int) -> Plane:
    """Shrinks a mask by a disk of some pixels."""
    return _morphed(mask, cv2.MORPH_ERODE, radius)


def opened(mask: Plane, radius: int) -> Plane:
    """Removes what is thinner than a disk."""
    return _morphed(mask, cv2.MORPH_OPEN, radius)


def closed(mask: Plane, radius: int) -> Plane:
    """Fills gaps that are narrower than a disk."""
    padded = np.pad(mask, radius)
    return _morphed(padded, cv2.MORPH_CLOSE, radius)[radius : radius + mask.shape[0], radius : radius + mask.shape[1]]


def ring(mask: Plane, radius: int) -> Plane:
    """Returns the ring of some pixels outside a mask."""
    return grown(mask, radius) & ~mask


def filled(mask: Plane) -> Plane:
    """Fills the holes of a mask."""
    outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    full = np.zeros(mask.shape, np.uint8)
    cv2.drawContours(full, list(outlines), -1, 1, cv2.FILLED)
    return np.asarray(full > 0)


def connected_parts(mask: Plane) -> list[Plane]:
    """Returns the connected parts of a mask, the largest first."""
    count, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    sizes = np.bincount(labels.ravel(), minlength=count)[1:]
    return [np.asarray(labels == index + 1) for index in np.argsort(-sizes, kind="stable").tolist()]


def touching(mask: Plane, other: Plane) -> Plane:
    """Returns the connected parts of a mask that overlap another mask."""
    kept = [part for part in connected_parts(mask) if (part & other).any()]
    return np.asarray(np.any(kept, axis=0)) if kept else np.zeros_like(mask)


def without_small_parts(mask: Plane, share: float) -> Plane:
    """Removes connected parts that are smaller than a share of the largest."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    if count < 2:
        return mask
    areas = stats[1:, cv2.CC_STAT_AREA]
    keep = np.concatenate([[False], areas >= share * areas.max()])
    return np.asarray(keep[labels])


def grabcut(image: Image, likely: Field, inside: Plane, outside: Plane, rounds: int = 1) -> Plane:
    """Segments an image by GrabCut, between what is certainly inside and what is certainly outside.

    Args:
        image: uint8 ``[H, W, 3]``.
        likely: ``[H, W]`` in [0, 1], above 0.5 where a pixel is more likely inside.
        inside: bool ``[H, W]``, certainly inside.
        outside: bool ``[H, W]``, certainly outside.
        rounds: iterations of fitting colours and outline to each other.

    Returns:
        bool ``[H, W]``; where ``likely`` exceeds 0.5 if one side has too few pixels to learn its colours.
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
    """Returns the bounding box of a mask with a margin; the whole frame if the mask is empty."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return slice(None), slice(None)
    return (
        slice(max(int(rows[0]) - margin, 0), int(rows[-1]) + 1 + margin),
        slice(max(int(columns[0]) - margin, 0), int(columns[-1]) + 1 + margin),
    )
