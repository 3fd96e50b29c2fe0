"""Chooses the part of the frame that the model sees: a window around the edit zone, of one size for the whole clip.

A ``fixed`` window contains the zone of all frames; a ``follow`` window follows the zone on a smooth path and can be
smaller. The mask lies inside the window in every frame, so cutting and pasting back lose nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from loraedit.masks.tube import MaskTube
from loraedit.settings import Crop
from loraedit.types import Size

__all__ = ["Window", "choose_window"]

_Value = TypeVar("_Value", bound=np.generic)

SMOOTH_FRAMES = 3.0
"""Standard deviation of the window's path smoothing."""
LEAST_PX = 32
"""Shortest side of a window, where the frame allows it."""
WORTH_FIXED, WORTH_FOLLOW = 0.8, 0.7
"""``auto`` takes a window if its area is below this share of the frame's, or of the fixed window's."""


@dataclass(frozen=True)
class Window:
    """A window of one size with a place in every frame.

    Attributes:
        size: height and width in pixels.
        corners: int ``[F, 2]``, y and x of the top left pixel.
    """

    size: Size
    corners: NDArray[np.int64]

    def at(self, index: int) -> tuple[slice, slice]:
        """Returns the window's rows and columns in a frame."""
        y, x = self.corners[index]
        return slice(y, y + self.size.height), slice(x, x + self.size.width)

    def cut(self, frames: Iterable[NDArray[_Value]], start: int = 0) -> NDArray[_Value]:
        """Cuts the window out of consecutive frames or masks ``[H, W, ...]`` from ``start`` on, and stacks them."""
        return np.stack([frame[self.at(index)] for index, frame in enumerate(frames, start)])

    def grown(self, frame: Size, multiple: int) -> Window:
        """Returns the window with sides that are multiples of a number, where the frame has room for them."""
        limits, size = np.array([frame.height, frame.width]), np.array([self.size.height, self.size.width])
        larger = np.minimum(-(-size // multiple) * multiple, limits)
        corners = np.clip(self.corners - (larger - size) // 2, 0, limits - larger)
        return Window(Size(int(larger[0]), int(larger[1])), corners)


def choose_window(mask: MaskTube, crop: Crop, context: float) -> Window:
    """Chooses the window for a mask.

    Args:
        mask: True in at least one pixel.
        crop: kind of window; ``auto`` takes a smaller window where it saves enough, ``off`` the whole frame.
        context: share of the zone's height and width to add on each side.
    """
    frame = mask.size
    whole = Window(frame, np.zeros((len(mask), 2), np.int64))
    if crop == "off":
        return whole
    boxes = _boxes(mask)
    union = np.concatenate([boxes[:, :2].min(0), boxes[:, 2:].max(0)])
    fixed = _around(np.repeat(union[None], len(mask), 0), frame, context)
    follow = _around(boxes, frame, context)
    if crop != "auto":
        return fixed if crop == "fixed" else follow
    if _area(follow) < WORTH_FOLLOW * min(_area(fixed), WORTH_FIXED * _area(whole)):
        return follow
    return fixed if _area(fixed) < WORTH_FIXED * _area(whole) else whole


def _area(window: Window) -> int:
    return window.size.height * window.size.width


def _boxes(mask: MaskTube) -> NDArray[np.float64]:
    """Returns ``[F, 4]``: y0, x0, y1, x1 (exclusive) of each frame's mask, interpolated where a mask is empty."""
    boxes = np.full((len(mask), 4), np.nan)
    for index in range(len(mask)):
        boxes[index] = mask.box(index) or np.nan
    there = np.flatnonzero(~np.isnan(boxes[:, 0]))
    for column in range(4):
        boxes[:, column] = np.interp(np.arange(len(mask)), there, boxes[there, column])
    return boxes


def _around(boxes: NDArray[np.float64], frame: Size, context: float) -> Window:
    """Returns the smallest window that contains every box and its context while its centre follows a smooth path."""
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    smooth = cv2.GaussianBlur(centres, (1, 0), sigmaX=1e-6, sigmaY=SMOOTH_FRAMES, borderType=cv2.BORDER_REPLICATE)
    reach = np.maximum(smooth - boxes[:, :2], boxes[:, 2:] - smooth).max(0)
    extent = (boxes[:, 2:] - boxes[:, :2]).max(0)
    wanted = np.ceil(2 * (reach + context * extent)).astype(int) + 2
    limits = np.array([frame.height, frame.width])
    size = np.minimum(np.maximum(wanted, LEAST_PX), limits)
    corners = np.clip(np.rint(smooth - size / 2).astype(np.int64), 0, limits - size)
    return Window(Size(int(size[0]), int(size[1])), corners)
