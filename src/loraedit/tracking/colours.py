"""Colour statistics of an object: how much more likely a colour is on the object than around it."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from loraedit.optical_flow.fields import Field
from loraedit.types import Image, Plane

__all__ = ["Colours"]

_BINS = 16
_FLOOR = 2e-4
"""Added to the share of every colour, so that a colour that was never seen favours neither side."""


@dataclass(frozen=True)
class Colours:
    """Colour histograms of an object and of its surroundings, each ``[16 * 16 * 16]`` with the sum 1."""

    inside: NDArray[np.float32]
    outside: NDArray[np.float32]

    @classmethod
    def learn(cls, image: Image, inside: Plane, outside: Plane) -> Colours:
        """Counts the colours of the pixels on an object, and of those around it."""
        codes = _codes(image)
        return cls(_shares(codes[inside]), _shares(codes[outside]))

    def mixed(self, other: Colours, share: float) -> Colours:
        """Mixes in a share of other colours."""
        keep = np.float32(1 - share)
        add = np.float32(share)
        return Colours(self.inside * keep + other.inside * add, self.outside * keep + other.outside * add)

    def likelihood(self, image: Image) -> Field:
        """Returns ``[H, W]`` in [0, 1], above 0.5 where a colour is more likely on the object than around it."""
        codes = _codes(image)
        inside, outside = self.inside[codes] + _FLOOR, self.outside[codes] + _FLOOR
        return np.asarray(cv2.GaussianBlur(inside / (inside + outside), (0, 0), 1.0), np.float32)


def _codes(image: Image) -> NDArray[np.int32]:
    """Returns the bin of each pixel in Lab space."""
    coarse = cv2.cvtColor(image, cv2.COLOR_RGB2LAB).astype(np.int32) * _BINS // 256
    return np.asarray((coarse[..., 0] * _BINS + coarse[..., 1]) * _BINS + coarse[..., 2], np.int32)


def _shares(codes: NDArray[np.int32]) -> NDArray[np.float32]:
    """Returns the smoothed histogram of colour bins."""
    counts = np.bincount(codes, minlength=_BINS**3).astype(np.float32).reshape(_BINS, _BINS, _BINS)
    for axis in range(3):  # neighbouring colours count too
        counts = 0.6 * counts + 0.2 * (_shifted(counts, axis, 1) + _shifted(counts, axis, -1))
    return np.asarray(counts.ravel() / max(float(counts.sum()), 1.0), np.float32)


def _shifted(values: NDArray[np.float32], axis: int, by: int) -> NDArray[np.float32]:
    """Shifts a histogram along an axis; zeros enter at the edge."""
    padding = [(1, 1) if index == axis else (0, 0) for index in range(values.ndim)]
    padded = np.pad(values, padding)
    return np.take(padded, np.arange(1, values.shape[axis] + 1) - by, axis)
