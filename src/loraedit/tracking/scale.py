"""The size at which motion is measured: large enough for the flow to match patches, small enough to be quick."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from loraedit.optical_flow.fields import enlargement_factor
from loraedit.types import Image, Plane, Size

__all__ = ["Scale"]

SHORTEST, LONGEST = 176, 232
"""The shorter side, in pixels, up to which small frames are enlarged, and down to which large ones are reduced."""


@dataclass(frozen=True)
class Scale:
    """From a clip's size to the size at which it is tracked, and back.

    Attributes:
        height: of the clip, in pixels.
        width: of the clip, in pixels.
        factor: tracked pixels for each pixel of the clip.
    """

    height: int
    width: int
    factor: float

    @classmethod
    def of(cls, size: Size) -> Scale:
        """The scale for a clip of this size."""
        short = min(size.height, size.width)
        return cls(size.height, size.width, enlargement_factor(size, SHORTEST) if short < LONGEST else LONGEST / short)

    @property
    def small(self) -> tuple[int, int]:
        """Width and height at which is tracked."""
        return max(round(self.width * self.factor), 1), max(round(self.height * self.factor), 1)

    def image(self, pixels: Image) -> Image:
        """An image ``[H, W, 3]`` at the size of tracking."""
        how = cv2.INTER_AREA if self.factor < 1 else cv2.INTER_CUBIC
        return np.asarray(cv2.resize(pixels, self.small, interpolation=how), np.uint8)

    def plane(self, mask: Plane) -> Plane:
        """A mask ``[H, W]`` at the size of tracking; what is thin stays."""
        how = cv2.INTER_AREA if self.factor < 1 else cv2.INTER_LINEAR
        small = cv2.resize(mask.astype(np.float32), self.small, interpolation=how)
        tight = small >= 0.5
        return np.asarray(tight if tight.any() else small > 0)

    def back(self, small: Plane) -> Plane:
        """A mask at the size of tracking at the clip's own, its outline smoothed."""
        size = (self.width, self.height)
        soft = small.astype(np.float32)
        if self.factor < 1:
            soft = np.asarray(cv2.GaussianBlur(soft, (0, 0), 0.8), np.float32)
            return np.asarray(cv2.resize(soft, size, interpolation=cv2.INTER_LINEAR) >= 0.5)
        return np.asarray(cv2.resize(soft, size, interpolation=cv2.INTER_AREA) >= 0.5)
