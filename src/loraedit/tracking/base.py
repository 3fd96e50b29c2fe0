"""What a tracker is shown, and what it answers, so that another one can take the embedded one's place."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, overload

from loraedit.tracking.view import View
from loraedit.types import OnStep, Plane, no_step

__all__ = ["Box", "Hints", "Planes", "Point", "Stroke", "Tracker"]

Point = tuple[int, int]  # x, y in pixels
Box = tuple[int, int, int, int]  # x0, y0, x1, y1 in pixels, x1 and y1 exclusive
Stroke = tuple[Point, ...]  # a line from point to point, as drawn with a brush


@dataclass(frozen=True)
class Hints:
    """What is shown of an object in one frame, in the clip's pixels, x to the right and y down.

    Attributes:
        points: on the object.
        points_out: not on the object.
        boxes: round the object.
        strokes: on the object.
        strokes_out: not on the object.
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
        """Whether they show the object as a whole: by its mask, or a box round it."""
        return self.mask is not None or bool(self.boxes)

    @property
    def shows(self) -> bool:
        """Whether they show the object at all, and not only what it is not."""
        return self.whole or bool(self.points or self.strokes)


class Planes(Sequence[Plane]):
    """The mask of a clip, frame by frame: bool ``[H, W]`` each, made when it is asked for.

    Args:
        count: F, the number of frames.
        make: the mask of a frame, by its index from 0.
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
    """Follows one object from where it is shown to all other frames."""

    def track(self, view: View, shown: Mapping[int, Hints], on_step: OnStep = no_step) -> Planes:
        """Find the object in every frame.

        Args:
            view: the clip.
            shown: what is shown of the object, by frame index from 0; at least one frame :attr:`~Hints.shows` it. On
                later frames, points and strokes correct what was found so far, while masks and boxes show it anew.
            on_step: told (frames done, frames in all).

        Returns:
            The object in every frame, tight; in a frame whose mask was shown that mask. All False in frames where the
            object is out of sight.
        """
        ...
