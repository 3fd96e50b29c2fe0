"""Defines the values that all other modules pass around.

Layouts: pixels are ``[F, H, W, 3]``, masks ``[F, H, W]``, latents ``[c, f, h, w]``.
Pixels and masks are numpy arrays; everything that a model sees is a torch tensor.
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
    "part_of",
    "steps_of",
]

Frames = NDArray[np.uint8]  # [F, H, W, 3] RGB, 0 to 255
Image = NDArray[np.uint8]  # [H, W, 3] RGB, 0 to 255
Stored = NDArray[np.unsignedinteger[Any]]  # [H, W, 3 or 4] RGB(A), uint8 0 to 255 or uint16 0 to 65535
Pixels = NDArray[np.float32]  # [F, H, W, 3] RGB, -1 to 1
Mask = NDArray[np.bool_]  # [F, H, W], True = edit
Plane = NDArray[np.bool_]  # [H, W], True = edit, or the pixels of an object
Weights = NDArray[np.float32]  # [F, H, W], 0 to 1

OnStep = Callable[[int, int], None]
"""A progress callback, called with (done, total)."""

Codec = Literal["h264", "h265", "av1", "prores", "ffv1", "png"]
"""The codecs that a clip can be written with."""


def no_step(_done: int, _total: int) -> None:
    """Ignores progress."""


Progress = Callable[[str, int, int, str], None]
"""Called with (phase, done, total, note); done equals total when a phase ends."""


def no_progress(_phase: str, _done: int, _total: int, _note: str) -> None:
    """Ignores progress."""


def steps_of(progress: Progress, phase: str) -> OnStep:
    """Returns a callback for the steps of one phase."""
    return lambda done, total: progress(phase, done, total, "")


def part_of(on_step: OnStep, part: int, parts: int) -> OnStep:
    """Returns a callback for the steps of one of several equal parts."""
    return lambda done, total: on_step(part * total + done, parts * total)


@dataclass(frozen=True)
class Size:
    """Holds height and width in pixels."""

    height: int
    width: int

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"


@dataclass(frozen=True)
class Colour:
    """Describes how RGB is coded as YUV and what the RGB means, in code points of ISO/IEC 23091-2 (2 = unspecified).

    Attributes:
        matrix: from RGB to YUV; 0 if RGB is stored directly.
        full_range: True if 8-bit luma runs from 0 to 255, False if it runs from 16 to 235.
        primaries: chromaticities of red, green and blue; passed on without conversion.
        transfer: the curve from code values to light; passed on without conversion.
    """

    matrix: int
    full_range: bool
    primaries: int
    transfer: int


@dataclass(frozen=True)
class Origin:
    """Describes the video file that a clip was read from: everything that the frames themselves do not hold.

    Attributes:
        path: absolute path of the file.
        pts: when each frame is shown, in units of ``time_base``, rising.
        time_base: seconds.
        last: how long the last frame is shown, in units of ``time_base``.
        start: where the file (the earliest of its streams) begins, in seconds, 0 or more.
        matrix: FFmpeg's display matrix of the stored frames, nine numbers row by row; None for the identity. The frames
            of a clip are already turned by it, to the nearest quarter turn, so that they are upright.
        pixel_aspect: width by height of a stored pixel.
        colour: how the file codes colour.
        fields: 1 for progressive frames; 2 to 5 for two fields a frame, in the order of FFmpeg's ``AVFieldOrder``.
        end: where the part of the file that the clip holds ends, in seconds. Only sound and subtitles that begin
            between ``start`` and ``end`` belong to the clip. None: the clip holds the whole file.
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
        """Returns the origin of the frames from ``first`` up to ``stop``."""
        pts = (*self.pts, self.pts[-1] + self.last)
        begin, end = (pts[at] * self.time_base for at in (first, stop))
        last = pts[stop] - pts[stop - 1]
        return replace(self, pts=pts[first:stop], last=last, start=begin if first else self.start, end=end)


class Footage(Protocol):
    """Reads a clip on demand, never all at once; :func:`loraedit.video.open_footage` opens a file as one.

    Spans are counted in frames, from ``start`` up to and without ``stop``; None is the end.
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
    def timed(self) -> bool:
        """False if the frame rate is assumed, because frames in a folder or an array have none."""
        ...

    @property
    def origin(self) -> Origin | None:
        """The video file that the clip, or the clip it was made from, was read from; None if there is none."""
        ...

    @property
    def depth(self) -> int:
        """Bits of a stored channel: 8, 10, 12 or 16."""
        ...

    @property
    def alpha(self) -> bool:
        """True if there is a fourth channel, opacity."""
        ...

    @property
    def fingerprint(self) -> str:
        """Twelve hex digits of all frames as :meth:`exact` yields them; equal frames give equal digits in any file."""
        ...

    def __len__(self) -> int: ...

    def rgb(self, start: int = 0, stop: int | None = None) -> Iterator[Image]:
        """Yields frames as people and models see them: uint8 ``[H, W, 3]``, without opacity, rounded to 8 bits."""
        ...

    def exact(self, start: int = 0, stop: int | None = None) -> Iterator[Stored]:
        """Yields frames as stored: uint8, or uint16 if the depth is above 8; ``[H, W, 4]`` with opacity, else 3.

        uint16 runs from 0 to 65535 at any depth: a value repeats its leading bits below its own bits.
        """
        ...


@dataclass(frozen=True)
class Clip:
    """Holds a video in memory; it is :class:`Footage` of 8 bits without opacity.

    Attributes:
        frames: ``[F, H, W, 3]`` uint8 RGB, 0 to 255.
        fps: frames per second, on average.
        origin: the video file that the clip, or the clip it was made from, was read from; None if there is none. A clip
            is written with the timing, colour, pixel aspect, sound and titles of its origin.
        timed: False if the frame rate is assumed.
    """

    frames: Frames
    fps: Fraction
    origin: Origin | None = None
    timed: bool = True

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
        """Bits of a channel."""
        return 8

    @property
    def alpha(self) -> bool:
        """False: a clip has no opacity."""
        return False

    @cached_property
    def fingerprint(self) -> str:
        """Twelve hex digits of the frames."""
        return joint_hash(frame_hash(frame) for frame in self.frames)

    def rgb(self, start: int = 0, stop: int | None = None) -> Iterator[Image]:
        """Yields the frames of a span, uint8 ``[H, W, 3]``."""
        return iter(self.frames[start:stop])

    def exact(self, start: int = 0, stop: int | None = None) -> Iterator[Stored]:
        """Yields the same frames as :meth:`rgb`."""
        return self.rgb(start, stop)


def frame_hash(frame: Stored) -> bytes:
    """Returns the hash of a frame's type, shape and content, 32 bytes."""
    digest = hashlib.sha256(f"{frame.dtype}{frame.shape}".encode())
    digest.update(np.ascontiguousarray(frame).data)
    return digest.digest()


def joint_hash(hashes: Iterable[bytes]) -> str:
    """Returns twelve hex digits of the hashes of all frames."""
    return hashlib.sha256(b"".join(hashes)).hexdigest()[:12]
