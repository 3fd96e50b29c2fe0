"""Makes clips and images of noise and of soft gradients, and compares them."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from loraedit.types import Clip, Footage

FPS = Fraction(30000, 1001)


def noise(*shape: int, seed: int = 0) -> NDArray[np.uint8]:
    """Returns uniform noise, uint8."""
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def noisy_clip(frames: int = 3, height: int = 32, width: int = 48, fps: Fraction = FPS) -> Clip:
    """Returns a clip of noise."""
    return Clip(noise(frames, height, width, 3), fps)


def smooth_clip(frames: int = 5, height: int = 32, width: int = 48) -> Clip:
    """Returns soft colour gradients that drift.

    They are easy on 4:2:0 chroma, so any error comes from the colour matrix or the codec.
    """
    f, y, x = np.indices((frames, height, width))
    colours = np.stack([40 + 3 * x + f, 200 - 3 * y - f, 60 + x + y], axis=-1)
    return Clip(colours.clip(0, 255).astype(np.uint8), FPS)


def gradient(frames: int, height: int = 48, width: int = 64, channels: int = 3) -> NDArray[np.uint16]:
    """Returns soft gradients that drift, over all of 16 bits."""
    f, y, x, c = np.indices((frames, height, width, channels))
    return (20000 + 300 * x + 400 * y + 211 * f + 1237 * c).astype(np.uint16)


def difference(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Returns the absolute difference of every value."""
    return np.abs(one.astype(np.int64) - other.astype(np.int64))


def save_png(path: Path, height: int = 4, width: int = 6, seed: int = 0) -> NDArray[np.uint8]:
    """Writes an image of noise and returns its pixels."""
    pixels = noise(height, width, 3, seed=seed)
    Image.fromarray(pixels).save(path)
    return pixels


def same_frames(one: Footage, other: Footage) -> bool:
    """Checks that two clips have the same frames, to the bit and in type."""
    pairs = zip(one.exact(), other.exact(), strict=True)
    return all(np.array_equal(a, b) and a.dtype == b.dtype for a, b in pairs)
