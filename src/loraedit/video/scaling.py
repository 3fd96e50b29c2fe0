"""Converts between the user's pixels and the model's: sizes, value ranges and clip lengths."""

from __future__ import annotations

import math
from typing import Any, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from loraedit.errors import InputError
from loraedit.types import Frames, Pixels, Size, Weights

__all__ = [
    "from_working",
    "pad_frames",
    "padded_length",
    "resize_frames",
    "resize_weights",
    "to_float",
    "to_uint8",
    "to_working",
    "working_size",
]

_Value = TypeVar("_Value", bound=np.generic)


def working_size(size: Size, area_px: int, multiple_px: int) -> Size:
    """Returns the working size: about ``area_px`` in the shape of ``size``, its sides multiples of ``multiple_px``.

    Both sides are scaled by the same factor, then rounded to the nearest multiple, at least one.

    Raises:
        InputError: a side, the area or the multiple is not positive.
    """
    if min(size.height, size.width, area_px, multiple_px) <= 0:
        raise InputError(
            f"No working size for {size}, area {area_px} and multiple {multiple_px}. All of them must be above zero."
        )
    scale = math.sqrt(area_px / (size.height * size.width))

    def snap(side_px: int) -> int:
        return max(math.floor(side_px * scale / multiple_px + 0.5), 1) * multiple_px

    return Size(snap(size.height), snap(size.width))


def resize_frames(frames: Pixels, size: Size) -> Pixels:
    """Resizes by averaging areas where a side shrinks, and bicubically where one grows.

    Args:
        frames: ``[F, H, W, 3]`` float in [-1, 1].
        size: the new height and width.

    Returns:
        ``[F, size.height, size.width, 3]``, same dtype, clamped to [-1, 1] (bicubic overshoots at edges); the same
        array if it has that size already.
    """
    assert np.issubdtype(frames.dtype, np.floating) and frames.ndim == 4
    if frames.shape[1:3] == (size.height, size.width):
        return frames
    resized = np.empty((len(frames), size.height, size.width, frames.shape[3]), frames.dtype)
    for index, frame in enumerate(frames):
        resized[index] = _resize_frame(frame, size)
    return resized.clip(-1, 1, out=resized)


def _resize_frame(frame: NDArray[np.float32], size: Size) -> NDArray[np.float32]:
    """Resizes ``[H, W, 3]`` in two steps, since OpenCV averages areas only where no side grows."""
    least = min(size.width, frame.shape[1]), min(size.height, frame.shape[0])
    shrunk = cv2.resize(frame, least, interpolation=cv2.INTER_AREA)
    grown = cv2.resize(shrunk, (size.width, size.height), interpolation=cv2.INTER_CUBIC)
    return np.asarray(grown, dtype=frame.dtype)


def to_float(frames: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Converts uint8 0 to 255, any shape, to float32 in [-1, 1]; 0 becomes -1 and 255 becomes 1."""
    assert frames.dtype == np.uint8
    return frames.astype(np.float32) / np.float32(127.5) - np.float32(1)


def to_uint8(frames: NDArray[np.floating[Any]]) -> NDArray[np.uint8]:
    """Converts float in [-1, 1], any shape, to uint8 0 to 255: clamps, and rounds half to even, so that 0 becomes 128.

    The exact inverse of ``to_float``.
    """
    assert np.issubdtype(frames.dtype, np.floating)
    levels = (frames.astype(np.float32) + np.float32(1)) * np.float32(127.5)
    return np.asarray(np.rint(levels).clip(0, 255), dtype=np.uint8)


def to_working(frames: Frames, size: Size) -> Pixels:
    """Resizes uint8 frames ``[F, H, W, 3]`` to the model's size, float32 in [-1, 1], frame by frame."""
    return np.concatenate([resize_frames(to_float(frame[None]), size) for frame in frames])


def from_working(pixels: Pixels, size: Size) -> Frames:
    """Resizes the model's pixels ``[F, H', W', 3]`` to a clip's size, uint8, frame by frame."""
    return np.concatenate([to_uint8(resize_frames(frame[None], size)) for frame in pixels])


def resize_weights(weights: Weights, size: Size) -> Weights:
    """Resizes weights ``[F, H, W]`` in [0, 1] by averaging areas, or linearly where a side grows."""
    least = min(size.width, weights.shape[2]), min(size.height, weights.shape[1])
    small = [cv2.resize(plane, least, interpolation=cv2.INTER_AREA) for plane in weights]
    return np.stack([cv2.resize(plane, (size.width, size.height)) for plane in small])


def padded_length(frames: int, multiple: int) -> int:
    """Returns the smallest ``multiple * n + 1`` that is not below ``frames``.

    Raises:
        InputError: ``frames`` is below 1.
    """
    assert multiple >= 1
    if frames < 1:
        raise InputError(f"A clip of {frames} frames has nothing to edit. Expected at least one frame.")
    return math.ceil((frames - 1) / multiple) * multiple + 1


def pad_frames(frames: NDArray[_Value], multiple: int) -> NDArray[_Value]:
    """Repeats the last frame until the length is ``multiple * n + 1``; returns the same array if it is already.

    Args:
        frames: ``[F, ...]``, frames or masks of any dtype.
        multiple: the model's temporal factor.

    Returns:
        ``[padded_length(F, multiple), ...]``.

    Raises:
        InputError: there is no frame.
    """
    missing = padded_length(len(frames), multiple) - len(frames)
    if missing == 0:
        return frames
    return np.concatenate([frames, np.repeat(frames[-1:], missing, axis=0)])
