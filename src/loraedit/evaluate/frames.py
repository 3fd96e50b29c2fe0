"""Compares clips frame by frame inside a region: what all metrics share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import repeat, zip_longest
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loraedit.errors import InputError, ShapeError
from loraedit.types import Image, Plane

__all__ = ["CLEAR_LEVELS", "Images", "Planes", "aligned", "clearly_different", "difference", "nonempty"]

Images = Iterable[Image]
"""The frames of a clip, uint8 ``[H, W, 3]``; an array ``[F, H, W, 3]`` is such."""

Planes = Iterable[Plane]
"""A region, one bool ``[H, W]`` for each frame; an array ``[F, H, W]`` is such."""

CLEAR_LEVELS = 16
"""A pixel is clearly changed if a channel differs by more than this, in grey levels of 0 to 255."""


def aligned(*clips: Images, region: Planes | None = None) -> Iterator[tuple[tuple[Image, ...], Plane]]:
    """Yields the frames of all clips at each time, with the region there; without a region, it is everywhere.

    Raises:
        ShapeError: frame counts, heights or widths differ.
    """
    ended = object()
    planes: Iterable[Any] = repeat(None) if region is None else region
    for index, (*frames, plane) in enumerate(zip_longest(*clips, planes, fillvalue=ended)):
        if plane is None and any(frame is not ended for frame in frames):
            plane = np.ones(next(frame for frame in frames if frame is not ended).shape[:2], np.bool_)
        elif plane is None:
            return
        shapes = ["missing" if each is ended else list(each.shape[:2]) for each in (*frames, plane)]
        if any(shape != shapes[0] for shape in shapes):
            raise ShapeError(
                f"Clips and regions must have the same frames, height and width, but frame {index} is {shapes}."
            )
        yield tuple(frames), plane


def nonempty(count: int) -> int:
    """Returns the number of measured pixels.

    Raises:
        InputError: it is 0.
    """
    if not count:
        raise InputError("The region is empty in all measured frames, so there is nothing to average.")
    return count


def difference(a: Image, b: Image) -> NDArray[np.int32]:
    """Returns a - b, int32 ``[H, W, 3]``."""
    return a.astype(np.int32) - b.astype(np.int32)


def clearly_different(a: Image, b: Image) -> NDArray[np.bool_]:
    """Returns where two images clearly differ, bool ``[H, W]``."""
    return np.asarray(np.abs(difference(a, b)).max(-1) > CLEAR_LEVELS)
