"""Find an object again that was out of sight: by what it looked like last, and by its colours."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from loraedit.tracking.colours import Colours
from loraedit.types import Image, Plane

__all__ = ["Portrait", "find"]

ALIKE = 34.0
"""Root mean square difference, in grey levels, up to which a place may be the object again."""
COLOURED = 0.6
"""The least that the colours at such a place have to speak for it."""


@dataclass(frozen=True)
class Portrait:
    """An object cut out of a frame.

    Attributes:
        pixels: uint8 ``[h, w, 3]``, its box.
        mask: bool ``[h, w]``, the object in it.
    """

    pixels: Image
    mask: Plane

    @classmethod
    def of(cls, image: Image, mask: Plane) -> Portrait:
        """The object where ``mask`` is True; an empty portrait if it is nowhere."""
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        if not len(rows):
            return cls(image[:0, :0], mask[:0, :0])
        box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
        return cls(image[box].copy(), mask[box].copy())


def find(portrait: Portrait, image: Image, colours: Colours) -> Plane | None:
    """The object at the place that looks most like its portrait, bool ``[H, W]``, or None if nothing does."""
    height, width = portrait.mask.shape
    if not portrait.mask.any():
        return None
    pad = max(height, width) // 3  # it may come into the frame from the side
    padded = cv2.copyMakeBorder(image, pad, pad, pad, pad, cv2.BORDER_REPLICATE)
    if height > padded.shape[0] or width > padded.shape[1]:
        return None
    weight = np.repeat(portrait.mask[..., None].astype(np.float32), 3, -1)
    squares = cv2.matchTemplate(padded, portrait.pixels, cv2.TM_SQDIFF, mask=weight)
    likelihood = cv2.copyMakeBorder(colours.likelihood(image), pad, pad, pad, pad, cv2.BORDER_CONSTANT)
    support = cv2.matchTemplate(likelihood, portrait.mask.astype(np.float32), cv2.TM_CCORR) / portrait.mask.sum()
    difference = np.sqrt(np.maximum(squares, 0) / (3 * portrait.mask.sum()))
    _, _, (x, y), _ = cv2.minMaxLoc(np.where(support >= COLOURED, difference, np.inf).astype(np.float32))
    if not (support[y, x] >= COLOURED and difference[y, x] <= ALIKE):
        return None
    found = np.zeros(padded.shape[:2], np.bool_)
    found[y : y + height, x : x + width] = portrait.mask
    return found[pad : pad + image.shape[0], pad : pad + image.shape[1]]
