"""What an object's colours say: how much likelier a colour is on it than around it."""

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
"""Added to every colour's share, so that a colour never seen counts for neither side."""


@dataclass(frozen=True)
class Colours:
    """Colour histograms of an object and of its surroundings, each ``[16 * 16 * 16]`` and summing to 1."""

    inside: NDArray[np.float32]
    outside: NDArray[np.float32]

    @classmethod
    def learn(cls, image: Image, inside: Plane, outside: Plane) -> Colours:
        """From the pixels on an object and those around it."""
        codes = _codes(image)
        return cls(_shares(codes[inside]), _shares(codes[outside]))

    def mixed(self, other: Colours, share: float) -> Colours:
        """These colours with a share of other ones."""
        keep = np.float32(1 - share)
        add = np.float32(share)
        return Colours(self.inside * keep + other.inside * add, self.outside * keep + other.outside * add)

    def likelihood(self, image: Image) -> Field:
        """``[H, W]`` in [0, 1]: above a half where a colour is rather the object's than its surroundings'."""
        codes = _codes(image)
        inside, outside = self.inside[codes] + _FLOOR, self.outside[codes] + _FLOOR
        return np.asarray(cv2.GaussianBlur(inside / (inside + outside), (0, 0), 1.0), np.float32)


def _codes(image: Image) -> NDArray[np.int32]:
    coarse = cv2.cvtColor(image, cv2.COLOR_RGB2LAB).astype(np.int32) * _BINS // 256
    return np.asarray((coarse[..., 0] * _BINS + coarse[..., 1]) * _BINS + coarse[..., 2], np.int32)


def _shares(codes: NDArray[np.int32]) -> NDArray[np.float32]:
    counts = np.bincount(codes, minlength=_BINS**3).astype(np.float32).reshape(_BINS, _BINS, _BINS)
    for axis in range(3):  # a colour is also near its neighbours
        counts = 0.6 * counts + 0.2 * (_shifted(counts, axis, 1) + _shifted(counts, axis, -1))
    return np.asarray(counts.ravel() / max(float(counts.sum()), 1.0), np.float32)


def _shifted(values: NDArray[np.float32], axis: int, by: int) -> NDArray[np.float32]:
    padding = [(1, 1) if index == axis else (0, 0) for index in range(values.ndim)]
    padded = np.pad(values, padding)
    return np.take(padded, np.arange(1, values.shape[axis] + 1) - by, axis)
