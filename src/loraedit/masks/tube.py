"""Holds the mask of a whole clip in little memory: the bits of each frame, packed within their bounding box."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loraedit.types import Mask, Plane, Size, frame_hash, joint_hash

__all__ = ["Box", "MaskTube"]

Box = tuple[int, int, int, int]  # y0, x0, y1, x1 in pixels; y1 and x1 exclusive


@dataclass(frozen=True)
class _Packed:
    box: Box
    bits: bytes


class MaskTube:
    """Holds an edit mask of all frames of a clip, True = edit. It iterates over its planes; numpy reads it as an array.

    Args:
        planes: bool ``[H, W]``, one per frame, at least one; a mask ``[F, H, W]`` will do.
    """

    def __init__(self, planes: Iterable[Plane]) -> None:
        self._frames: list[_Packed] = []
        last: Plane | None = None
        for plane in planes:
            same = last is not None and (plane is last or np.array_equal(plane, last))
            self._frames.append(self._frames[-1] if same else _pack(plane))
            last = plane
        assert last is not None
        self.size = Size(*last.shape)

    def __len__(self) -> int:
        return len(self._frames)

    @property
    def shape(self) -> tuple[int, int, int]:
        """F, H and W."""
        return len(self), self.size.height, self.size.width

    def __getitem__(self, index: int) -> Plane:
        """Returns the mask of a frame as a new array, bool ``[H, W]``."""
        plane = np.zeros((self.size.height, self.size.width), np.bool_)
        packed = self._frames[index]
        y0, x0, y1, x1 = packed.box
        if y1 > y0:
            bits = np.frombuffer(zlib.decompress(packed.bits), np.uint8)
            plane[y0:y1, x0:x1] = np.unpackbits(bits, count=(y1 - y0) * (x1 - x0)).reshape(y1 - y0, x1 - x0)
        return plane

    def __iter__(self) -> Iterator[Plane]:
        return (self[index] for index in range(len(self)))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """Returns all planes at once, ``[F, H, W]``."""
        assert copy is not False
        stacked: Mask = np.stack(list(self))
        return stacked if dtype is None else stacked.astype(dtype)

    def box(self, index: int) -> Box | None:
        """Returns the smallest box that holds a frame's mask; None if the mask is black."""
        box = self._frames[index].box
        return box if box[2] > box[0] else None

    def any(self) -> bool:
        """Returns whether any pixel is to be edited."""
        return any(self.box(index) for index in range(len(self)))

    def all(self) -> bool:
        """Returns whether every pixel is to be edited."""
        whole = (0, 0, self.size.height, self.size.width)
        return all(each.box == whole for each in self._frames) and all(bool(plane.all()) for plane in self)

    def share(self) -> float:
        """Returns the share of the clip that is to be edited, 0 to 1."""
        return float(np.mean([plane.mean() for plane in self]))

    @cached_property
    def fingerprint(self) -> str:
        """Twelve hex digits of all planes."""
        return joint_hash(frame_hash(plane.view(np.uint8)) for plane in self)


def _pack(plane: Plane) -> _Packed:
    assert plane.dtype == np.bool_ and plane.ndim == 2
    ys, xs = np.flatnonzero(plane.any(1)), np.flatnonzero(plane.any(0))
    if not len(ys):
        return _Packed((0, 0, 0, 0), b"")
    box = int(ys[0]), int(xs[0]), int(ys[-1]) + 1, int(xs[-1]) + 1
    inner = plane[box[0] : box[2], box[1] : box[3]]
    return _Packed(box, zlib.compress(np.packbits(inner).tobytes(), 1))
