"""Small clips on which every metric has a known value."""

from __future__ import annotations

import numpy as np

from loraedit.types import Frames, Mask


def noise_clip(frames: int = 4, height: int = 32, width: int = 40, seed: int = 0) -> Frames:
    return np.random.default_rng(seed).integers(0, 256, (frames, height, width, 3), np.uint8)


def texture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A smooth random texture, so that flow can be measured."""
    import cv2

    rough = np.random.default_rng(seed).normal(size=(height, width, 3))
    smooth = cv2.GaussianBlur(rough, (0, 0), 2.0)
    return np.rint(128 + 100 * smooth / np.abs(smooth).max()).astype(np.uint8)


def sliding(step_px: int, frames: int = 5, size: int = 64, seed: int = 0) -> Frames:
    """A texture that moves to the right by so many pixels a frame."""
    margin = abs(step_px) * frames
    wide = texture(size, size + 2 * margin, seed)
    lefts = [margin - step_px * index for index in range(frames)]
    return np.stack([wide[:, left : left + size] for left in lefts])


def grey(level: int, frames: int = 4, size: int = 16) -> Frames:
    return np.full((frames, size, size, 3), level, np.uint8)


def middle(frames: Frames) -> Mask:
    mask = np.zeros(frames.shape[:3], np.bool_)
    height, width = frames.shape[1:3]
    mask[:, height // 4 : -height // 4, width // 4 : -width // 4] = True
    return mask
