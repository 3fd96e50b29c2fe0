"""Between the user's pixels and the model's: sizes, value ranges, clip lengths, and the final composite."""

from __future__ import annotations

import math
from typing import Any, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from loraedit.errors import InputError, ShapeError
from loraedit.types import Frames, Image, Pixels, Size, Stored, Weights

__all__ = [
    "composite",
    "from_working",
    "lay_over",
    "pad_frames",
    "padded_length",
    "resize_frames",
    "resize_weights",
    "restore_detail",
    "to_float",
    "to_uint8",
    "to_working",
    "working_size",
]

DISAGREEMENT = 32.0
"""Grey levels between what was generated and what the model saw at which the weight of the latter is down to 1 / e."""

_Value = TypeVar("_Value", bound=np.generic)


def working_size(size: Size, area_px: int, multiple_px: int) -> Size:
    """The size to work at: about ``area_px`` in all, in the shape of ``size``, sides multiples of ``multiple_px``.

    Each side is scaled by the same factor, then rounded to the nearest multiple, at least one.

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
    """Resize by averaging areas where a side shrinks, and bicubically where one grows.

    Args:
        frames: ``[F, H, W, 3]`` float in [-1, 1].
        size: the new height and width.

    Returns:
        ``[F, size.height, size.width, 3]``, same dtype, clamped to [-1, 1] (bicubic overshoots at edges); the very
        same array if the size is right already.
    """
    assert np.issubdtype(frames.dtype, np.floating) and frames.ndim == 4
    if frames.shape[1:3] == (size.height, size.width):
        return frames
    resized = np.empty((len(frames), size.height, size.width, frames.shape[3]), frames.dtype)
    for index, frame in enumerate(frames):
        resized[index] = _resize_frame(frame, size)
    return resized.clip(-1, 1, out=resized)


def _resize_frame(frame: NDArray[np.float32], size: Size) -> NDArray[np.float32]:
    """``[H, W, 3]`` to ``size``, in two steps: OpenCV averages areas only where no side grows."""
    least = min(size.width, frame.shape[1]), min(size.height, frame.shape[0])
    shrunk = cv2.resize(frame, least, interpolation=cv2.INTER_AREA)
    grown = cv2.resize(shrunk, (size.width, size.height), interpolation=cv2.INTER_CUBIC)
    return np.asarray(grown, dtype=frame.dtype)


def to_float(frames: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Turn uint8 0 to 255, any shape, into float32 in [-1, 1]; 0 is -1 and 255 is 1."""
    assert frames.dtype == np.uint8
    return frames.astype(np.float32) / np.float32(127.5) - np.float32(1)


def to_uint8(frames: NDArray[np.floating[Any]]) -> NDArray[np.uint8]:
    """Turn float in [-1, 1], any shape, into uint8 0 to 255: clamped, rounded half to even, so that 0 is 128.

    Undoes ``to_float`` exactly.
    """
    assert np.issubdtype(frames.dtype, np.floating)
    levels = (frames.astype(np.float32) + np.float32(1)) * np.float32(127.5)
    return np.asarray(np.rint(levels).clip(0, 255), dtype=np.uint8)


def to_working(frames: Frames, size: Size) -> Pixels:
    """Bring uint8 frames ``[F, H, W, 3]`` to the model's size, float32 in [-1, 1]; a frame at a time."""
    return np.concatenate([resize_frames(to_float(frame[None]), size) for frame in frames])


def from_working(pixels: Pixels, size: Size) -> Frames:
    """Bring the model's pixels ``[F, H', W', 3]`` to a clip's size, uint8; a frame at a time."""
    return np.concatenate([to_uint8(resize_frames(frame[None], size)) for frame in pixels])


def resize_weights(weights: Weights, size: Size) -> Weights:
    """Resize weights ``[F, H, W]`` in [0, 1] by averaging areas, or linearly where a side grows."""
    least = min(size.width, weights.shape[2]), min(size.height, weights.shape[1])
    small = [cv2.resize(plane, least, interpolation=cv2.INTER_AREA) for plane in weights]
    return np.stack([cv2.resize(plane, (size.width, size.height)) for plane in small])


def restore_detail(generated: Frames, carried: Frames, seen: Frames, trust: Weights) -> Frames:
    """Give generated frames back the detail that the model's size and its VAE cost.

    What was carried is known twice: as it was, and as the model saw it, at its size and through its VAE. Where the
    model has kept what it saw, the small difference between the two is its own inexactness: there what was carried is
    taken as it was, as far as it is trusted. Where the model has made something else, that stays::

        out = generated + w (carried - generated),   w = trust exp(-(|generated - seen| / s)^2)

    Args:
        generated: uint8 ``[F, H, W, 3]``, at the source's size.
        carried: uint8, what the model's condition was made of.
        seen: uint8, the condition as the VAE gives it back.
        trust: float32 ``[F, H, W]`` in [0, 1].
    """
    restored = np.empty_like(generated)
    for index, (made, sharp, soft) in enumerate(zip(generated, carried, seen, strict=True)):
        made_f = made.astype(np.float32)
        apart = cv2.GaussianBlur(np.abs(made_f - soft).mean(-1), (0, 0), 1.5)
        weight = trust[index] * np.exp(-np.square(apart / DISAGREEMENT))
        restored[index] = np.rint(made_f + weight[..., None] * (sharp - made_f))
    return restored


def composite(source: Frames, generated: Frames, alpha: Weights) -> Frames:
    """Lay the generated frames over the source: ``source + alpha * (generated - source)``, rounded.

    Where alpha is 0 the source is kept bit for bit, where it is 1 the generated pixel is. Works a frame at a time.

    Args:
        source: ``[F, H, W, 3]`` uint8.
        generated: ``[F, H, W, 3]`` uint8.
        alpha: ``[F, H, W]`` float32 in [0, 1], 1 = generated.

    Returns:
        ``[F, H, W, 3]`` uint8.

    Raises:
        ShapeError: frame counts, heights or widths differ.
    """
    assert source.dtype == generated.dtype == np.uint8
    if not source.shape == generated.shape == (*alpha.shape, 3):
        raise ShapeError(
            f"Frames cannot be laid over each other: the source is {list(source.shape)}, the generated clip "
            f"{list(generated.shape)} and the mask {list(alpha.shape)}. Expected one F, H and W for all."
        )
    blended = np.empty(source.shape, np.uint8)
    for index in range(len(source)):
        blended[index] = _blend(source[index], generated[index], alpha[index])
    return blended


def lay_over(stored: Stored, generated: Image, alpha: Weights, where: tuple[slice, slice]) -> Stored:
    """One frame as it is stored with generated pixels laid over a part of it, as :func:`composite` does.

    Args:
        stored: uint8 or uint16 ``[H, W, 3 or 4]``; opacity stays as it is.
        generated: uint8 ``[h, w, 3]``.
        alpha: float32 ``[h, w]`` in [0, 1], 1 = generated.
        where: the rows and columns of the part.

    Returns:
        A new frame of the same kind.
    """
    laid: Stored = stored.copy()
    part = laid[where][..., :3]
    levels = generated.astype(np.float32) * (257 if stored.dtype == np.uint16 else 1)
    below = part.astype(np.float32)
    part[...] = np.rint(below + alpha[..., None] * (levels - below))
    return laid


def _blend(source: Image, generated: Image, alpha: NDArray[np.float32]) -> Image:
    assert bool(((alpha >= 0) & (alpha <= 1)).all())
    below, above = source.astype(np.float32), generated.astype(np.float32)
    return np.rint(below + alpha.astype(np.float32)[..., None] * (above - below)).astype(np.uint8)


def padded_length(frames: int, multiple: int) -> int:
    """The smallest ``multiple * n + 1`` that is not below ``frames``.

    Raises:
        InputError: there is no frame.
    """
    assert multiple >= 1
    if frames < 1:
        raise InputError(f"A clip of {frames} frames has nothing to edit. Expected at least one frame.")
    return math.ceil((frames - 1) / multiple) * multiple + 1


def pad_frames(frames: NDArray[_Value], multiple: int) -> NDArray[_Value]:
    """Repeat the last frame until the length is ``multiple * n + 1``; the very same array if it is already.

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
