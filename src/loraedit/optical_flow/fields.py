"""Pure functions on dense flow fields and on images that are read along them."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from loraedit.types import Image, Size

__all__ = ["Field", "enlargement_factor", "photometric_error", "pixel_grid", "resize_flow", "sample_at"]

Field = NDArray[np.float32]  # [H, W] values, or [H, W, 2] x and y in pixels

MAX_ASPECT = 4
"""Limits the enlargement of thin frames: the longer side grows to at most this many times the wanted short side."""


def pixel_grid(like: NDArray[np.generic]) -> Field:
    """Returns the position of every pixel, ``[H, W, 2]`` x and y, for an array ``[H, W, ...]``."""
    height, width = like.shape[:2]
    return np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1).astype(np.float32)


def sample_at(values: NDArray[np.generic], positions: Field) -> Field:
    """Samples an image or a field at positions, bilinearly; positions beyond the edge get the edge's values.

    Args:
        values: ``[H, W]`` or ``[H, W, C]``.
        positions: ``[H', W', 2]``, x and y in pixels of ``values``.

    Returns:
        float32 ``[H', W']`` or ``[H', W', C]``.
    """
    x, y = positions[..., 0], positions[..., 1]
    return np.asarray(cv2.remap(values.astype(np.float32), x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE))


def photometric_error(image: Image, warped: Field, sigma_px: float = 1.0) -> Field:
    """Returns the mean absolute colour difference around every pixel, ``[H, W]`` in grey levels.

    Args:
        image: uint8 ``[H, W, 3]``.
        warped: ``[H, W, 3]``, another image sampled where a flow leads.
        sigma_px: standard deviation of the Gaussian that averages the differences.
    """
    difference = np.abs(image.astype(np.float32) - warped).mean(-1)
    return np.asarray(cv2.GaussianBlur(difference, (0, 0), sigma_px), np.float32)


def resize_flow(flow: Field, size: Size) -> Field:
    """Resizes a flow ``[H', W', 2]`` to frames of another size, in pixels of that size; the same array if it fits.

    It averages areas where the flow shrinks, and interpolates linearly where it grows.
    """
    height, width = flow.shape[:2]
    if (height, width) == (size.height, size.width):
        return flow
    factors = np.divide((width, height), (size.width, size.height), dtype=np.float32)
    kind = cv2.INTER_AREA if height >= size.height and width >= size.width else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(flow, (size.width, size.height), interpolation=kind) / factors, np.float32)


def enlargement_factor(size: Size, short_side_px: int) -> float:
    """Returns the factor, at least 1, that enlarges frames to a shorter side; thin frames get less (``MAX_ASPECT``)."""
    short, long = sorted((size.height, size.width))
    return max(1.0, min(short_side_px / short, MAX_ASPECT * short_side_px / long))
