"""What trackers have in common: hints on an object, masks by frame, and the protocol that a tracker answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, overload

from loraedit.tracking.view import View
from loraedit.types import OnStep, Plane, no_step

__all__ = ["Box", "Hints", "Planes", "Point", "Stroke", "Tracker"]

Point = tuple[int, int]  # x, y in pixels
Box = tuple[int, int, int, int]  # x0, y0, x1, y1 in pixels, x1 and y1 exclusive
Stroke = tuple[Point, ...]  # points of a polyline, drawn with a brush


@dataclass(frozen=True)
class Hints:
    """Hints on an object in one frame, in the clip's pixels, x to the right and y down.

    Attributes:
        points: on the object.
        points_out: off the object.
        boxes: around the object.
        strokes: on the object.
        strokes_out: off the object.
        mask: the object itself, bool ``[H, W]``.
    """

    points: tuple[Point, ...] = ()
    points_out: tuple[Point, ...] = ()
    boxes: tuple[Box, ...] = ()
    strokes: tuple[Stroke, ...] = ()
    strokes_out: tuple[Stroke, ...] = ()
    mask: Plane | None = None

    @property
    def whole(self) -> bool:
        """Whether the hints delimit the whole object, by its mask or by a box."""
        return self.mask is not None or bool(self.boxes)

    @property
    def shows(self) -> bool:
        """Whether any hint lies on the object, rather than off it."""
        return self.whole or bool(self.points or self.strokes)


class Planes(Sequence[Plane]):
    """The masks of a clip, bool ``[H, W]`` each, computed on access.

    Args:
        count: F, the number of frames.
        make: computes the mask of a frame by its index from 0.
    """

    def __init__(self, count: int, make: Callable[[int], Plane]) -> None:
        self._count, self._make = count, make

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> Plane: ...

    @overload
    def __getitem__(self, index: slice) -> list[Plane]: ...

    def __getitem__(self, index: int | slice) -> Plane | list[Plane]:
        if isinstance(index, slice):
            return [self._make(each) for each in range(self._count)[index]]
        return self._make(range(self._count)[index])


class Tracker(Protocol):
    """Follows one object from the frames with hints to all other frames."""

    def track(self, view: View, shown: Mapping[int, Hints], on_step: OnStep = no_step) -> Planes:
        """Finds the object in every frame.

        Args:
            view: the clip.
            shown: hints by frame index from 0; at least one frame :attr:`~Hints.shows` the object. In later frames,
                points and strokes correct what was found so far, while masks and boxes replace it.
            on_step: called with (frames done, frames in all).

        Returns:
            The tight mask of the object in every frame; a mask given as a hint is returned as it is. All False in
                frames where the object is out of sight.
        """
        ...
