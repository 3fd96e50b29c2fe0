"""Finds an object again that was out of sight, by its last appearance and by its colours."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from loraedit.tracking.colours import Colours
from loraedit.types import Image, Plane

__all__ = ["Template", "find_template"]

MAX_RMS_LEVELS = 34.0
"""The largest root mean square difference, in grey levels, of a place that may be the object."""
MIN_COLOUR_SUPPORT = 0.6
"""The least mean likelihood of the colours at such a place."""


@dataclass(frozen=True)
class Template:
    """An object, cut out of a frame.

    Attributes:
        pixels: uint8 ``[h, w, 3]``, the bounding box.
        mask: bool ``[h, w]``, the object in it.
    """

    pixels: Image
    mask: Plane

    @classmethod
    def of(cls, image: Image, mask: Plane) -> Template:
        """Cuts out the object where ``mask`` is True; the template is empty if the mask is."""
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        if not len(rows):
            return cls(image[:0, :0], mask[:0, :0])
        box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
        return cls(image[box].copy(), mask[box].copy())


def find_template(template: Template, image: Image, colours: Colours) -> Plane | None:
    """Finds the place that looks most like the template, bool ``[H, W]``; None if no place is similar enough."""
    height, width = template.mask.shape
    if not template.mask.any():
        return None
    pad = max(height, width) // 3  # it may enter the frame from a side
    padded = cv2.copyMakeBorder(image, pad, pad, pad, pad, cv2.BORDER_REPLICATE)
    if height > padded.shape[0] or width > padded.shape[1]:
        return None
    weight = np.repeat(template.mask[..., None].astype(np.float32), 3, -1)
    squared_errors = cv2.matchTemplate(padded, template.pixels, cv2.TM_SQDIFF, mask=weight)
    likelihood = cv2.copyMakeBorder(colours.likelihood(image), pad, pad, pad, pad, cv2.BORDER_CONSTANT)
    support = cv2.matchTemplate(likelihood, template.mask.astype(np.float32), cv2.TM_CCORR) / template.mask.sum()
    difference = np.sqrt(np.maximum(squared_errors, 0) / (3 * template.mask.sum()))
    _, _, (x, y), _ = cv2.minMaxLoc(np.where(support >= MIN_COLOUR_SUPPORT, difference, np.inf).astype(np.float32))
    if not (support[y, x] >= MIN_COLOUR_SUPPORT and difference[y, x] <= MAX_RMS_LEVELS):
        return None
    found = np.zeros(padded.shape[:2], np.bool_)
    found[y : y + height, x : x + width] = template.mask
    return found[pad : pad + image.shape[0], pad : pad + image.shape[1]]
