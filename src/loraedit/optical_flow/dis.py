"""Dense optical flow (OpenCV's DIS), and reading images where it leads."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from loraedit.types import Image, Size

__all__ = ["Field", "FlowMeter", "Grey", "at", "enlargement", "grid", "misfit"]

Field = NDArray[np.float32]  # [H, W] values, or [H, W, 2] x and y in pixels
Grey = NDArray[np.uint8]  # [H, W]

LONGEST = 4
"""Frames are enlarged until they are this many times as long as their short side is to be: thin ones not as much."""

LEAST_PX = 16
"""No side is shorter when the flow is measured; DIS refuses less than its patches."""


class FlowMeter:
    """Measures flow between frames of one size, enlarged first if they are small: DIS matches patches of 8 pixels.

    Args:
        size: of the frames.
        short_side: frames with a shorter side than this are enlarged to it; thin ones until they are
            ``LONGEST * short_side`` long.
        smoothness: how much a smooth flow counts beside one that matches colours and their slopes; 20 is OpenCV's own.
    """

    def __init__(self, size: Size, short_side: int = 0, smoothness: float = 20.0) -> None:
        factor = enlargement(size, short_side)
        self._size = (size.width, size.height)
        self._measured = (max(round(size.width * factor), LEAST_PX), max(round(size.height * factor), LEAST_PX))
        self._enlarged = self._measured != self._size
        self._dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        self._dis.setFinestScale(0 if self._enlarged else 1)
        self._dis.setVariationalRefinementAlpha(smoothness)

    def grey(self, image: Image) -> Grey:
        """A frame ``[H, W, 3]`` as flow is measured on it: ``[H', W']``."""
        grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        if self._enlarged:
            grey = cv2.resize(grey, self._measured, interpolation=cv2.INTER_CUBIC)
        return np.asarray(grey, np.uint8)

    def between(self, one: Grey, other: Grey, first_guess: Field | None = None) -> Field:
        """``[H', W', 2]``: from each pixel of one :meth:`grey` frame to where it lies in the other."""
        start = np.zeros((*one.shape, 2), np.float32) if first_guess is None else first_guess.copy()
        return np.asarray(self._dis.calc(one, other, start), np.float32)

    def at_clip_size(self, flow: Field) -> Field:
        """A flow ``[H', W', 2]`` at the frames' own size and in their pixels, ``[H, W, 2]``."""
        factors = np.divide(self._measured, self._size, dtype=np.float32)
        return np.asarray(cv2.resize(flow, self._size, interpolation=cv2.INTER_AREA) / factors, np.float32)


def enlargement(size: Size, short_side: int) -> float:
    """The factor, at least 1, by which frames are enlarged to a shorter side; thin ones by less, see ``LONGEST``."""
    short, long = sorted((size.height, size.width))
    return max(1.0, min(short_side / short, LONGEST * short_side / long))


def grid(like: NDArray[np.generic]) -> Field:
    """The position of every pixel, ``[H, W, 2]`` x and y."""
    height, width = like.shape[:2]
    return np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1).astype(np.float32)


def at(values: NDArray[np.generic], positions: Field) -> Field:
    """Values of an image or a field at positions; beyond its edge, those of the edge."""
    x, y = positions[..., 0], positions[..., 1]
    return np.asarray(cv2.remap(values.astype(np.float32), x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE))


def misfit(one: Image, other: Field, sigma: float = 1.0) -> Field:
    """Mean absolute difference of the surroundings of every pixel, ``[H, W]`` in grey levels; ``sigma`` in pixels."""
    difference = np.abs(one.astype(np.float32) - other).mean(-1)
    return np.asarray(cv2.GaussianBlur(difference, (0, 0), sigma), np.float32)
