"""The size at which a clip is tracked: large enough for the flow to match patches, and small enough to be fast."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from loraedit.optical_flow.fields import enlargement_factor
from loraedit.types import Image, Plane, Size

__all__ = ["Scale"]

SHORTEST, LONGEST = 176, 232
"""Frames with a shorter side below the first value, in pixels, are enlarged to it; frames above the second are reduced.
"""


@dataclass(frozen=True)
class Scale:
    """Converts between a clip's own size and the tracking size.

    Attributes:
        height: of the clip, in pixels.
        width: of the clip, in pixels.
        factor: tracking pixels per pixel of the clip.
    """

    height: int
    width: int
    factor: float

    @classmethod
    def of(cls, size: Size) -> Scale:
        """Returns the scale for a clip of this size."""
        short = min(size.height, size.width)
        return cls(size.height, size.width, enlargement_factor(size, SHORTEST) if short < LONGEST else LONGEST / short)

    @property
    def small(self) -> tuple[int, int]:
        """Width and height at the tracking size."""
        return max(round(self.width * self.factor), 1), max(round(self.height * self.factor), 1)

    def image(self, pixels: Image) -> Image:
        """Resizes an image ``[H, W, 3]`` to the tracking size."""
        how = cv2.INTER_AREA if self.factor < 1 else cv2.INTER_CUBIC
        return np.asarray(cv2.resize(pixels, self.small, interpolation=how), np.uint8)

    def plane(self, mask: Plane) -> Plane:
        """Resizes a mask ``[H, W]`` to the tracking size; a mask that would vanish keeps its thin parts."""
        how = cv2.INTER_AREA if self.factor < 1 else cv2.INTER_LINEAR
        small = cv2.resize(mask.astype(np.float32), self.small, interpolation=how)
        tight = small >= 0.5
        return np.asarray(tight if tight.any() else small > 0)

    def back(self, small: Plane) -> Plane:
        """Resizes a mask from the tracking size to the clip's own, and smooths its outline."""
        size = (self.width, self.height)
        soft = small.astype(np.float32)
        if self.factor < 1:
            soft = np.asarray(cv2.GaussianBlur(soft, (0, 0), 0.8), np.float32)
            return np.asarray(cv2.resize(soft, size, interpolation=cv2.INTER_LINEAR) >= 0.5)
        return np.asarray(cv2.resize(soft, size, interpolation=cv2.INTER_AREA) >= 0.5)
