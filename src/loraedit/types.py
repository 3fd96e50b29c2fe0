"""The values that everything else passes around.

Layouts, once and for all: pixels are ``[F, H, W, 3]``, masks ``[F, H, W]``, latents ``[c, f, h, w]``.
Pixels and masks are numpy arrays; what the model sees are torch tensors.
A mask is always an *edit mask*: True (white) = regenerate, False (black) = keep.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Clip",
    "Codec",
    "Colour",
    "Footage",
    "Frames",
    "Image",
    "Mask",
    "OnStep",
    "Origin",
    "Pixels",
    "Plane",
    "Progress",
    "Size",
    "Stored",
    "Weights",
    "frame_hash",
    "joint_hash",
    "no_progress",
    "no_step",
    "steps_of",
]

Frames = NDArray[np.uint8]  # [F, H, W, 3] RGB, 0 to 255
Image = NDArray[np.uint8]  # [H, W, 3] RGB, 0 to 255
Stored = NDArray[np.unsignedinteger[Any]]  # [H, W, 3 or 4] RGB(A), uint8 0 to 255 or uint16 0 to 65535
Pixels = NDArray[np.float32]  # [F, H, W, 3] RGB, -1 to 1
Mask = NDArray[np.bool_]  # [F, H, W], True = edit
Plane = NDArray[np.bool_]  # [H, W], True = edit, or an object
Weights = NDArray[np.float32]  # [F, H, W], 0 to 1

OnStep = Callable[[int, int], None]
"""Told (done, total) as something goes on."""

Codec = Literal["h264", "h265", "av1", "prores", "ffv1", "png"]
"""What a clip can be written as."""


def no_step(_done: int, _total: int) -> None:
    """Tell nobody."""


Progress = Callable[[str, int, int, str], None]
"""Called with (phase, done, total, note); done equals total when a phase ends."""


def no_progress(_phase: str, _done: int, _total: int, _note: str) -> None:
    """Ignores progress."""


def steps_of(progress: Progress, phase: str) -> OnStep:
    """Returns a callback for the steps of one phase."""
    return lambda done, total: progress(phase, done, total, "")


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
        matrix: from RGB to YUV; 0 where RGB is stored as it is.
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
        start: seconds, not below zero; where the file, that is the earliest of its streams, begins.
        matrix: how the stored frames are to be shown: FFmpeg's display matrix, nine numbers row by row; None is as they
            are. Frames were turned by it, to the nearest quarter, to be upright.
        pixel_aspect: width by height of a pixel as it is stored.
        colour: how the file codes colour.
        fields: how many moments a frame holds: 1 is one; from 2 to 5 are two fields, in the order of FFmpeg's
            ``AVFieldOrder``.
        end: seconds; where the part of the file ends that the frames are. Then only what begins from ``start`` on and
            before it belongs to them. None: they are all of the file.
    """

    path: Path
    pts: tuple[int, ...]
    time_base: Fraction
    last: int
    start: Fraction
    matrix: tuple[int, ...] | None
    pixel_aspect: Fraction
    colour: Colour
    fields: int = 1
    end: Fraction | None = None

    def part(self, first: int, stop: int) -> Origin:
        """What the frames from ``first`` up to ``stop`` come from."""
        pts = (*self.pts, self.pts[-1] + self.last)
        begin, end = (pts[at] * self.time_base for at in (first, stop))
        last = pts[stop] - pts[stop - 1]
        return replace(self, pts=pts[first:stop], last=last, start=begin if first else self.start, end=end)


class Footage(Protocol):
    """A clip that is read on demand, never all at once; :func:`loraedit.video.open_footage` makes one of a file.

    Spans are counted in frames, from ``start`` up to ``stop``, which is left out; None is the end.
    """

    @property
    def size(self) -> Size:
        """Height and width of a frame, in pixels."""
        ...

    @property
    def fps(self) -> Fraction:
        """Frames per second, on average."""
        ...

    @property
    def origin(self) -> Origin | None:
        """The video file that the clip, or what it was made from, was read from; None if there is none."""
        ...

    @property
    def depth(self) -> int:
        """Bits that a channel has as it is stored: 8, 10, 12 or 16."""
        ...

    @property
    def alpha(self) -> bool:
        """Whether there is a fourth channel, opacity."""
        ...

    @property
    def fingerprint(self) -> str:
        """Twelve hex digits of all frames as :meth:`exact` gives them; the same frames give the same, in any file."""
        ...

    def __len__(self) -> int: ...

    def rgb(self, start: int = 0, stop: int | None = None) -> Iterator[Image]:
        """What people and models see: uint8 ``[H, W, 3]``, opacity dropped, deeper channels rounded to 8 bits."""
        ...

    def exact(self, start: int = 0, stop: int | None = None) -> Iterator[Stored]:
        """All that is stored: uint8, or uint16 where the depth is above 8; ``[H, W, 4]`` with opacity, else 3.

        uint16 goes from 0 to 65535 at any depth: below its own bits a value repeats the leading ones.
        """
        ...


@dataclass(frozen=True)
class Clip:
    """A video in memory; it is :class:`Footage` of 8 bits without opacity.

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

    @property
    def depth(self) -> int:
        """Bits that a channel has."""
        return 8

    @property
    def alpha(self) -> bool:
        """Whether there is opacity."""
        return False

    @cached_property
    def fingerprint(self) -> str:
        """Twelve hex digits of the frames."""
        return joint_hash(frame_hash(frame) for frame in self.frames)

    def rgb(self, start: int = 0, stop: int | None = None) -> Iterator[Image]:
        """The frames of a span, uint8 ``[H, W, 3]``."""
        return iter(self.frames[start:stop])

    def exact(self, start: int = 0, stop: int | None = None) -> Iterator[Stored]:
        """The same as :meth:`rgb`."""
        return self.rgb(start, stop)


def frame_hash(frame: Stored) -> bytes:
    """The hash of one frame: 32 bytes, of its type, shape and content."""
    digest = hashlib.sha256(f"{frame.dtype}{frame.shape}".encode())
    digest.update(np.ascontiguousarray(frame).data)
    return digest.digest()


def joint_hash(hashes: Iterable[bytes]) -> str:
    """Twelve hex digits of the hashes of all frames."""
    return hashlib.sha256(b"".join(hashes)).hexdigest()[:12]
