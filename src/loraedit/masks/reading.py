"""Reads a mask from a video, a folder, an image, a box or an array."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import repeat
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from loraedit.errors import InputError, ShapeError
from loraedit.masks.tube import MaskTube
from loraedit.types import Image, Mask, Plane, Size
from loraedit.video import IMAGE_SUFFIXES, check_footage, check_image, open_footage, read_image

__all__ = ["MaskSpec", "check_mask_file", "read_mask", "to_picture"]

MaskSpec = str | Path | NDArray[Any]
"""A mask as the user gives it; ``read_mask`` documents how each kind is read."""

_Plane = NDArray[np.uint8]
_Value = TypeVar("_Value", bound=np.generic)
_BOX = re.compile(r"\s*(-?\d{1,9})\s*,\s*(-?\d{1,9})\s*,\s*(-?\d{1,9})\s*,\s*(-?\d{1,9})\s*")
_WHITE = 128


def read_mask(spec: MaskSpec, frames: int, size: Size) -> MaskTube:
    """Reads the user's mask for a clip frame by frame; white is the region to regenerate.

    Args:
        spec: one of
            a box ``"x0,y0,x1,y1"`` in pixels (x to the right, y down, x1 and y1 exclusive), for all frames;
            an image, for all frames; a video or a folder of frames, one per frame of the clip;
            an array ``[H, W]`` or ``[F, H, W]``: bool, uint8 (white from 128) or float in 0 to 1 (from 0.5).
            Pictures are converted to grey first, and count as white from 128 of 255.
        frames: F, the number of frames of the clip.
        size: height and width of the clip.

    Returns:
        The mask, True = regenerate; at least one pixel is True and at least one is False.

    Raises:
        ShapeError: the mask has another length or size than the clip, or the box leaves the frame.
        InputError: the mask cannot be read, is black everywhere, or white everywhere.
    """
    planes, count, got = _read_any(spec, size)
    if got != size:
        raise ShapeError(f"The mask is {got}, but the clip is {size}. Give the mask the size of the clip.")
    if count is None:
        planes = repeat(next(iter(planes)), frames)
    elif count != frames:
        raise ShapeError(
            f"The mask has {count} frames, but the clip has {frames}. "
            "Give one mask for each frame, or a single image for all of them."
        )
    tube = MaskTube(planes)
    _check_content(tube)
    return tube


def check_mask_file(spec: MaskSpec) -> None:
    """Checks that a mask given by a path is there, from its headers alone; boxes and arrays have none.

    Raises:
        InputError: there is no such file, or it is of no kind that :func:`read_mask` reads.
    """
    if not isinstance(spec, str | Path) or (isinstance(spec, str) and _BOX.fullmatch(spec)):
        return
    path = Path(spec)
    _check_exists(path)
    if _is_image(path):
        check_image(path)
    else:
        check_footage(path)


def _read_any(spec: MaskSpec, size: Size) -> tuple[Iterable[Plane], int | None, Size]:
    """Returns the planes, their number (None: one plane for all frames), and their size."""
    if not isinstance(spec, str | Path):
        return _spread(_from_values(_array_of(spec)))
    box = _BOX.fullmatch(spec) if isinstance(spec, str) else None
    if box is not None:
        x0, y0, x1, y1 = (int(number) for number in box.groups())
        return _spread(_from_box(x0, y0, x1, y1, size))
    return _from_path(Path(spec))


def _spread(mask: Mask) -> tuple[Iterable[Plane], int | None, Size]:
    single = mask.ndim == 2
    return [mask] if single else mask, None if single else len(mask), Size(*mask.shape[-2:])


def _from_path(path: Path) -> tuple[Iterable[Plane], int | None, Size]:
    _check_exists(path)
    if _is_image(path):
        return _spread(_from_rgb(read_image(path)))
    footage = open_footage(path)
    return (_from_rgb(frame) for frame in footage.rgb()), len(footage), footage.size


def _check_exists(path: Path) -> None:
    if not path.exists():
        raise InputError(
            f'There is no mask at {path}. Give a video, a folder of frames, an image, or a box as "x0,y0,x1,y1" '
            "in whole pixels."
        )


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.is_dir()


def _from_rgb(pixels: Image) -> Mask:
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY) >= _WHITE)


def _from_box(x0: int, y0: int, x1: int, y1: int, size: Size) -> Mask:
    if x1 <= x0 or y1 <= y0:
        raise InputError(f"The mask box {x0},{y0},{x1},{y1} is empty. Expected x0,y0,x1,y1 with x0 < x1 and y0 < y1.")
    if min(x0, y0) < 0 or x1 > size.width or y1 > size.height:
        raise ShapeError(
            f"The mask box {x0},{y0},{x1},{y1} leaves the frame, which is {size}. "
            f"Expected x from 0 to {size.width} and y from 0 to {size.height}."
        )
    mask = np.zeros((size.height, size.width), np.bool_)
    mask[y0:y1, x0:x1] = True
    return mask


def _array_of(values: object) -> NDArray[Any]:
    """Converts anything that numpy can read as an array, such as a tensor on the CPU."""
    try:
        return np.asarray(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"A mask cannot be made of this {type(values).__name__} ({error}). Give bool, uint8 or float."
        ) from error


def _from_values(values: NDArray[Any]) -> Mask:
    if values.ndim not in (2, 3):
        raise ShapeError(f"A mask is [H, W] or [F, H, W], but this one has the shape {list(values.shape)}.")
    if values.dtype == np.bool_:
        return values
    if values.dtype == np.uint8:
        return np.asarray(values >= _WHITE)
    if not np.issubdtype(values.dtype, np.floating):
        raise InputError(f"A mask cannot be made of {values.dtype} values. Give bool, uint8 or float.")
    if not bool(((values >= 0) & (values <= 1)).all()):  # also refuses NaN
        raise InputError("A float mask holds NaN or values outside 0 to 1. Expected 0 to 1, where 1 is regenerate.")
    return np.asarray(values >= 0.5)


def _check_content(mask: MaskTube) -> None:
    if not mask.any():
        raise InputError(
            "The mask is black everywhere, so there is nothing to edit. Paint the region to regenerate white "
            "(255, not 1)."
        )
    if mask.all():
        raise InputError(
            "The mask is white everywhere, so nothing would be preserved. Leave the region to keep black; "
            "if that is what is white now, invert the mask."
        )


def to_picture(plane: Plane) -> Image:
    """Returns the mask of a frame as a picture, uint8 ``[H, W, 3]``: white = edit, black = keep."""
    return np.repeat(plane[..., None] * np.uint8(255), 3, axis=-1)
