"""Grows, feathers, boxes and resizes masks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from loraedit.errors import InputError
from loraedit.masks.tube import MaskTube
from loraedit.types import Mask, Plane, Size, Weights

__all__ = ["box_regions", "default_feather_px", "dilate", "feather", "loosen", "resize_mask"]

BOX_GROWTH = 0.05
"""Growth of the boxes of ``mask_boxes`` on each side, so a tenth in all, as in LoRA-Edit's code."""

_Plane = NDArray[np.uint8]
_Value = TypeVar("_Value", bound=np.generic)


def box_regions(mask: Mask, grow: float = BOX_GROWTH) -> Mask:
    """Replaces each connected region of each frame by its bounding box, grown.

    A tight mask would force the new object into the outline of the old one.

    Args:
        mask: ``[F, H, W]`` bool, True = regenerate. Pixels that touch at a corner are connected.
        grow: added on each of the four sides, as a fraction of the box's width or height. Both sides together are
            rounded down to pixels; of an odd number, the right or lower side gets one more.

    Returns:
        ``[F, H, W]`` bool, True = regenerate, covering ``mask``; boxes end at the frame.

    Raises:
        InputError: ``grow`` is negative.
    """
    if not grow >= 0:
        raise InputError(f"A mask cannot grow by {grow}. Expected 0 or more, such as 0.1 for a tenth on each side.")
    return _each_frame(mask, lambda plane: _boxes(plane, grow)).astype(np.bool_)


def _boxes(plane: _Plane, grow: float) -> _Plane:
    boxes = np.zeros_like(plane)
    _, _, regions, _ = cv2.connectedComponentsWithStats(plane, connectivity=8)
    for x, y, width, height, _ in regions[1:].tolist():  # 0 is the background
        (left, right), (above, below) = _halves(int(2 * grow * width)), _halves(int(2 * grow * height))
        boxes[max(y - above, 0) : y + height + below, max(x - left, 0) : x + width + right] = 1
    return boxes


def _halves(total: int) -> tuple[int, int]:
    return total // 2, total - total // 2


def dilate(mask: Mask, radius_px: float) -> Mask:
    """Grows a mask by a disk: masks every pixel within ``radius_px`` of a masked one, centre to centre.

    Args:
        mask: ``[F, H, W]`` bool, True = regenerate.
        radius_px: 0 changes nothing.

    Returns:
        ``[F, H, W]`` bool, covering ``mask``.

    Raises:
        InputError: ``radius_px`` is negative or not finite.
    """
    _check_radius(radius_px)
    return _each_frame(mask, lambda plane: _distance_to_zero(1 - plane) <= radius_px)


def loosen(mask: MaskTube, box: bool, dilate_px: float) -> MaskTube:
    """Grows a mask: first by a disk of ``dilate_px``, then, if ``box`` is True, each region to its bounding box.

    Raises:
        InputError: the grown mask is white everywhere.
    """
    if not box and not dilate_px:
        return mask
    loose = MaskTube(_loosened(mask, box, dilate_px))
    if loose.all():
        remedy = "Add --no-mask-boxes" if box else "Lower --dilate-px"
        raise InputError(f"The grown mask is white everywhere, so nothing would be preserved. {remedy}.")
    return loose


def _loosened(mask: MaskTube, box: bool, dilate_px: float) -> Iterator[Plane]:
    for plane in mask:
        grown = dilate(plane[None], dilate_px) if dilate_px else plane[None]
        yield (box_regions(grown) if box else grown)[0]


def feather(mask: Mask, radius_px: float) -> Weights:
    """Softens a mask inwards for blending: 0 outside, rising linearly from the border to 1 at ``radius_px`` inside.

    The value of a masked pixel is its distance to the nearest unmasked pixel, centre to centre, divided by
    ``radius_px``, at most 1. The edge of the frame is not a border of the mask.

    Args:
        mask: ``[F, H, W]`` bool, True = regenerate.
        radius_px: up to 1 returns the mask itself as 0 and 1.

    Returns:
        ``[F, H, W]`` float32 in [0, 1], exactly 0 outside the mask and above 0 inside.

    Raises:
        InputError: ``radius_px`` is negative or not finite.
    """
    _check_radius(radius_px)
    reach = max(radius_px, 1.0)
    return _each_frame(mask, lambda plane: np.minimum(_distance_to_zero(plane) / np.float32(reach), np.float32(1)))


def default_feather_px(size: Size) -> int:
    """Returns 1 % of the short side of a frame in pixels, at least 2: as wide to the eye at every size."""
    return max(round(0.01 * min(size.height, size.width)), 2)


def _check_radius(radius_px: float) -> None:
    if not 0 <= radius_px < math.inf:
        raise InputError(f"A mask cannot be grown or feathered by {radius_px} pixels. Expected 0 or more.")


def _distance_to_zero(plane: _Plane) -> NDArray[np.float32]:
    """Returns each pixel's Euclidean distance to the nearest 0, ``[H, W]``; infinite if the plane holds no 0."""
    if plane.all():
        return np.full(plane.shape, np.inf, dtype=np.float32)
    distance = cv2.distanceTransform(plane, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.asarray(distance, dtype=np.float32)


def _each_frame(mask: Mask, change: Callable[[_Plane], NDArray[_Value]]) -> NDArray[_Value]:
    """Applies a function to each ``[H, W]`` plane of 0 and 1."""
    assert mask.dtype == np.bool_ and mask.ndim == 3
    return np.stack([change(plane) for plane in mask.astype(np.uint8)])


def resize_mask(mask: Mask, size: Size) -> Mask:
    """Resizes a mask without losing a masked pixel: a new pixel is masked if any pixel that it overlaps is masked.

    Args:
        mask: ``[F, H, W]`` bool, True = regenerate.
        size: the new height and width, larger or smaller.

    Returns:
        ``[F, size.height, size.width]`` bool.
    """
    assert mask.dtype == np.bool_ and mask.ndim == 3
    if mask.shape[1:] == (size.height, size.width):
        return mask
    return _cover(_cover(mask, size.height, axis=1), size.width, axis=2)


def _cover(mask: Mask, cells: int, axis: int) -> Mask:
    """Resizes one axis of ``[F, H, W]``: cell i overlaps the pixels from first[i] to last[i]."""
    pixels = mask.shape[axis]
    index = np.arange(cells)
    first, last = index * pixels // cells, -(-(index + 1) * pixels // cells) - 1
    covered: Mask = mask.take(first, axis)
    for step in range(1, int((last - first).max()) + 1):
        covered |= mask.take(np.minimum(first + step, last), axis)
    return covered
