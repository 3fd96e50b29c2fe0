"""The values that everything else passes around.

Layouts, once and for all: pixels are ``[F, H, W, 3]``, masks ``[F, H, W]``, latents ``[c, f, h, w]``.
Pixels and masks are numpy arrays; what the model sees are torch tensors.
A mask is always an *edit mask*: True (white) = regenerate, False (black) = keep.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

__all__ = ["Clip", "Frames", "Image", "Mask", "Pixels", "Size", "Weights"]

Frames = NDArray[np.uint8]  # [F, H, W, 3] RGB, 0 to 255
Image = NDArray[np.uint8]  # [H, W, 3] RGB, 0 to 255
Pixels = NDArray[np.float32]  # [F, H, W, 3] RGB, -1 to 1
Mask = NDArray[np.bool_]  # [F, H, W], True = edit
Weights = NDArray[np.float32]  # [F, H, W], 0 to 1


@dataclass(frozen=True)
class Size:
    """Height and width in pixels."""

    height: int
    width: int

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"


@dataclass(frozen=True)
class Clip:
    """A video in memory.

    Attributes:
        frames: ``[F, H, W, 3]`` uint8 RGB, 0 to 255.
        fps: frames per second.
    """

    frames: Frames
    fps: Fraction

    def __post_init__(self) -> None:
        if self.frames.dtype != np.uint8 or self.frames.ndim != 4 or self.frames.shape[-1] != 3:
            raise TypeError(f"expected uint8 frames [F, H, W, 3], got {self.frames.dtype} {self.frames.shape}")

    def __len__(self) -> int:
        return int(self.frames.shape[0])

    @property
    def size(self) -> Size:
        """Height and width of a frame, in pixels."""
        return Size(int(self.frames.shape[1]), int(self.frames.shape[2]))
