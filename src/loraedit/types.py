"""The values that everything else passes around.

Layouts, once and for all: pixels are ``[F, H, W, 3]``, masks ``[F, H, W]``, latents ``[c, f, h, w]``.
Pixels and masks are numpy arrays; what the model sees are torch tensors.
A mask is always an *edit mask*: True (white) = regenerate, False (black) = keep.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Clip",
    "Codec",
    "Colour",
    "Frames",
    "Image",
    "Mask",
    "OnStep",
    "Origin",
    "Pixels",
    "Size",
    "Weights",
    "no_step",
]

Frames = NDArray[np.uint8]  # [F, H, W, 3] RGB, 0 to 255
Image = NDArray[np.uint8]  # [H, W, 3] RGB, 0 to 255
Pixels = NDArray[np.float32]  # [F, H, W, 3] RGB, -1 to 1
Mask = NDArray[np.bool_]  # [F, H, W], True = edit
Weights = NDArray[np.float32]  # [F, H, W], 0 to 1

OnStep = Callable[[int, int], None]
"""Told (done, total) as something goes on."""

Codec = Literal["h264", "h265", "av1", "prores", "ffv1", "png"]
"""What a clip can be written as."""


def no_step(_done: int, _total: int) -> None:
    """Tell nobody."""


@dataclass(frozen=True)
class Size:
    """Height and width in pixels."""

    height: int
    width: int

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"


@dataclass(frozen=True)
class Colour:
    """How RGB is coded as YUV, and what the RGB stands for; numbers are code points of ISO/IEC 23091-2, 2 = unsaid.

    Attributes:
        matrix: from RGB to YUV.
        full_range: whether 8-bit luma runs from 0 to 255, and not from 16 to 235.
        primaries: what red, green and blue are; never converted, only passed on.
        transfer: the curve from numbers to light; never converted, only passed on.
    """

    matrix: int
    full_range: bool
    primaries: int
    transfer: int


@dataclass(frozen=True)
class Origin:
    """The video file that a clip was read from: all that its frames do not say.

    Attributes:
        path: the file, absolute.
        pts: when each frame is shown, in units of ``time_base``, rising.
        time_base: seconds.
        last: how long the last frame is shown, in units of ``time_base``.
        start: seconds; where the file, that is the earliest of its streams, begins.
        rotation: degrees counterclockwise by which the stored frames were turned to be upright; 0, 90, 180 or 270.
        mirrored: whether they were mirrored too, left to right, before they were turned.
        pixel_aspect: width by height of a pixel of the upright frames.
        colour: how the file codes colour.
    """

    path: Path
    pts: tuple[int, ...]
    time_base: Fraction
    last: int
    start: Fraction
    rotation: int
    mirrored: bool
    pixel_aspect: Fraction
    colour: Colour


@dataclass(frozen=True)
class Clip:
    """A video in memory.

    Attributes:
        frames: ``[F, H, W, 3]`` uint8 RGB, 0 to 255.
        fps: frames per second, on average.
        origin: the video file that the clip, or what it was made from, was read from; None if there is none. Writing
            a clip gives it the timing, colour, pixel aspect, sound and titles of its origin.
    """

    frames: Frames
    fps: Fraction
    origin: Origin | None = None

    def __post_init__(self) -> None:
        if self.frames.dtype != np.uint8 or self.frames.ndim != 4 or self.frames.shape[-1] != 3:
            raise TypeError(f"expected uint8 frames [F, H, W, 3], got {self.frames.dtype} {self.frames.shape}")
        if self.origin is not None and len(self.origin.pts) != len(self.frames):
            raise TypeError(f"expected frames at {len(self.origin.pts)} times, got {len(self.frames)} frames")

    def __len__(self) -> int:
        return int(self.frames.shape[0])

    @property
    def size(self) -> Size:
        """Height and width of a frame, in pixels."""
        return Size(int(self.frames.shape[1]), int(self.frames.shape[2]))
