"""A target as the model takes it: a segment at a time, the window alone, at the working size and a length that fits.

Inside the mask the model may be shown a hint: key frames carried along the source's motion. The user's edited frames
are key frames of every segment, however far away they are, so that looks do not drift from segment to segment; what
the segment before has made is one more, for what no edited frame shows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from copy import copy
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from loraedit.diffusion.samples import Hint
from loraedit.job.prepare import Job
from loraedit.job.segments import Segment
from loraedit.job.targets import EditTarget
from loraedit.masks.shaping import resize_mask
from loraedit.optical_flow.dis import Field
from loraedit.propagation.added_parts import Part, Things
from loraedit.propagation.carry import Carried, carry
from loraedit.propagation.paths import SHORT_SIDE, FarKey, trace
from loraedit.types import Frames, Image, Mask, OnStep, Pixels, no_step
from loraedit.video.scaling import pad_frames, resize_weights, to_working, working_size

__all__ = ["Lesson", "Read", "Scene", "Workbench"]

_Value = TypeVar("_Value", bound=np.generic)

Read = Callable[[int, int | None], Iterator[Image]]
"""Gives the frames of a clip, uint8 ``[H, W, 3]``, from one up to another, which is left out; None is the end."""

BLOCK = 32
"""Frames read at once to go through a clip backwards."""

AROUND = 16
"""Frames before and after a key frame by which a thing in it is told from the background."""


@dataclass(frozen=True)
class Lesson:
    """A segment to learn from, at the working size and length.

    Attributes:
        source: the source clip.
        mask: where is edited.
        taught: the source's own first frame, carried, and the same with the segment's last frame carried too; empty
            if nothing is to be shown. They are the same whatever is edited, so that the LoRA which learns them is, and
            it learns what is shown with references and without.
        references: the user's further edited frames in this segment, ``[1, H, W, 3]`` by index within it.
        regions: where each of them is learnt from, ``[1, H, W]``.
        from_first: the edited first frame alone, carried: what a reference's sample starts from.
    """

    source: Pixels
    mask: Mask
    taught: list[Hint]
    references: dict[int, Pixels]
    regions: dict[int, Mask]
    from_first: Hint | None


@dataclass(frozen=True)
class Scene:
    """A segment to generate, at the working size and length.

    Attributes:
        source: the source clip, with the targets below laid over it.
        mask: where is edited.
        given: frames that are known as a whole, ``[1, H, W, 3]`` by index within the segment: the edited first frame,
            or what the segment before has made.
        references: the user's further edited frames in this segment, likewise.
        shown: the edited key frames, carried; None if nothing is to be shown.
        carried: the same at the window's own size and the segment's own length.
    """

    source: Pixels
    mask: Mask
    given: dict[int, Pixels]
    references: dict[int, Pixels]
    shown: Hint | None
    carried: Carried | None


class Workbench:
    """Cuts a target of a job into what the model takes; it holds a segment at a time.

    Attributes:
        target: what is edited.
        size: the working size.

    Args:
        on_step: told how far the carrying of a segment is, (done, total).
    """

    def __init__(self, job: Job, target: EditTarget, on_step: OnStep = no_step) -> None:
        self.job, self.target, self._on_step = job, target, on_step
        self.size = working_size(target.window.size, job.area_px, job.card.multiple_px)
        self._source = self._below = _Pieces(target, job.source.rgb)
        self._unedited = {index: self._source.at(index) for index in target.keyframes}
        self._edited = {index: target.keyframe(index, frame) for index, frame in self._unedited.items()}
        self._carries = job.settings.carries
        self._ways: dict[int, dict[int, Field]] = {}
        self._parts: dict[int, Part | None] = {}
        self._first: list[Carried] | None = None
        self._sketches = False

    def sketch(self) -> Workbench:
        """The same for a first look: small frames are not enlarged for the flow, nothing is told apart or learnt."""
        bench = copy(self)
        bench._first, bench._sketches = None, True
        return bench

    def over(self, below: Read) -> Workbench:
        """The same for generating on top of other targets.

        Args:
            below: the source with those targets laid over it.
        """
        bench = copy(self)
        bench._first, bench._parts = None, {}
        bench._below = _Pieces(self.target, below)
        bench._edited = {index: self.target.keyframe(index, bench._below.at(index)) for index in self._edited}
        return bench

    @property
    def first(self) -> Image:
        """The window's part of the edited first frame, uint8 ``[H, W, 3]``."""
        return self._edited[0]

    def below(self, start: int, stop: int) -> Frames:
        """The window's part of what the target is laid over, uint8 ``[F, H, W, 3]``."""
        return self._below.span(start, stop)

    def mask(self, segment: Segment) -> Mask:
        """The window's part of the mask of a segment, bool ``[F, H, W]``."""
        return self._mask(segment.start, segment.stop)

    def _mask(self, start: int, stop: int) -> Mask:
        return self.target.window.cut((self.target.mask[index] for index in range(start, stop)), start)

    def trace(self, on_step: OnStep) -> None:
        """Find the ways from every segment to the key frames outside of it.

        Args:
            on_step: told (frames done, frames in all).
        """
        if not self._carries or len(self.job.segments) == 1:
            return
        walks = [(key, ahead) for key in self._edited for ahead in (True, False) if self._stops(key, ahead)]
        for order, (key, ahead) in enumerate(walks):
            stops, frames = self._stops(key, ahead), self._onward(key) if ahead else self._backward(key)

            def on_walk(done: int, total: int, order: int = order) -> None:
                on_step(order * total + done, len(walks) * total)

            ways = trace(frames, {abs(stop - key) for stop in stops}, on_walk, SHORT_SIDE)
            self._ways.setdefault(key, {}).update({stop: ways[abs(stop - key)] for stop in stops})

    def lesson(self, segment: Segment) -> Lesson:
        """What is learnt from a segment."""
        source, references = self._source.span(segment.start, segment.stop), self._references(segment)
        carried = self._lesson_hints(segment, source) if self._carries else None
        return Lesson(
            source=self._shrink(source),
            mask=self._shrink_mask(self.mask(segment)),
            taught=[self._hint(each) for each in carried[:2]] if carried else [],
            references=references,
            regions={index: self._region(segment.start + index) for index in references},
            from_first=self._hint(carried[2]) if carried and references else None,
        )

    def scene(self, segment: Segment, made: Frames) -> Scene:
        """What a segment is generated from.

        Args:
            made: its first frames as the segment before has made them, as many as are given, uint8 at the window's
                size; none in the first segment.
        """
        source = self._source.span(segment.start, segment.stop)
        given = made if len(made) else self._edited[0][None]
        carried = self._scene_hints(segment, source, made) if self._carries else None
        return Scene(
            source=self._shrink(self.below(segment.start, segment.stop)),
            mask=self._shrink_mask(self.mask(segment)),
            given={index: to_working(frame[None], self.size) for index, frame in enumerate(given)},
            references=self._references(segment),
            shown=self._hint(carried) if carried else None,
            carried=carried,
        )

    def anchor(self, edited: bool) -> Pixels:
        """The clip's first frame, ``[1, H, W, 3]`` at the working size: the source's, or the user's edit of it."""
        return to_working((self._edited if edited else self._unedited)[0][None], self.size)

    # ---- hints ---------------------------------------------------------------------------------------------------

    def _lesson_hints(self, segment: Segment, source: Frames) -> list[Carried]:
        """The source's frames carried and, if there are references in the segment, the edited first frame."""
        if not segment.given:
            *taught, _ = self._first_hints(segment, source)
            return taught
        self._first, made = None, {segment.given - 1: source[segment.given - 1]}
        looks = [*(look | made for look in self._taught(segment, source)), *self._alone(segment)]
        return self._carried(segment, source, looks, made)

    def _scene_hints(self, segment: Segment, source: Frames, made: Frames) -> Carried:
        """The edited key frames carried, and the last of the frames that are given."""
        if not segment.given:
            return self._first_hints(segment, source)[-1]
        self._first = None
        last = {segment.given - 1: made[-1]}
        carried = self._carried(segment, source, [self._relative(self._edited, segment) | last], last)[0]
        carried.frames[: segment.given], carried.trust[: segment.given] = made, 1.0
        return carried

    def _first_hints(self, segment: Segment, source: Frames) -> list[Carried]:
        """In the first segment the same flow serves to learn and, where no target lies below, to generate."""
        if self._first is None:
            taught = [] if self._sketches else [*self._taught(segment, source), *self._alone(segment)]
            self._first = self._carried(segment, source, [*taught, self._relative(self._edited, segment)], ())
        return self._first

    def _taught(self, segment: Segment, source: Frames) -> list[dict[int, Image]]:
        """The looks that the source is learnt from: its first frame, and that and the segment's last."""
        first = self._relative({0: self._unedited[0]}, segment)
        return [first, first | {len(source) - 1: source[-1]}]

    def _alone(self, segment: Segment) -> list[dict[int, Image]]:
        """The look that is the edited first frame alone, if there are references in the segment."""
        inside = any(index in segment for index in self._edited if index)
        return [self._relative({0: self._edited[0]}, segment)] if inside else []

    def _carried(
        self, segment: Segment, source: Frames, looks: list[dict[int, Image]], made: Mapping[int, Image] | tuple[()]
    ) -> list[Carried]:
        far = {
            key - segment.start: FarKey(self._unedited[key], self._ways[key][_nearest(segment, key)], self._part(key))
            for key in self._edited
            if key not in segment
        }
        if self._sketches:
            return carry(source, looks, self._on_step, 0, far, made)
        return carry(source, looks, self._on_step, SHORT_SIDE, far, made, self.mask(segment))

    def _part(self, key: int) -> Part | None:
        """What an edited frame adds beside a thing, for the segments that it is not in."""
        if key not in self._parts:
            start, stop = max(0, key - AROUND), min(len(self.target.mask), key + AROUND + 1)
            things = Things(self._source.span(start, stop), self._mask(start, stop))
            self._parts[key] = things.part(key - start, self._edited[key])
        return self._parts[key]

    def _hint(self, carried: Carried) -> Hint:
        trust = pad_frames(resize_weights(carried.trust, self.size), self.job.card.frame_step)
        return Hint(self._shrink(carried.frames), trust)

    # ---- ways to key frames that are far away --------------------------------------------------------------------

    def _stops(self, key: int, ahead: bool) -> list[int]:
        """The frames from which the way to a key frame is asked for, after it or before it."""
        stops = {_nearest(segment, key) for segment in self.job.segments if key not in segment}
        return sorted(stop for stop in stops if (stop > key) == ahead)

    def _onward(self, key: int) -> Iterator[Image]:
        """The window's part of the frames from a key frame on."""
        return (self._cut(frame, index) for index, frame in enumerate(self.job.source.rgb(key), key))

    def _backward(self, key: int) -> Iterator[Image]:
        """The same, backwards."""
        for stop in range(key + 1, 0, -BLOCK):
            yield from self._source.span(max(stop - BLOCK, 0), stop)[::-1]

    # ---- pieces --------------------------------------------------------------------------------------------------

    def _references(self, segment: Segment) -> dict[int, Pixels]:
        inside = {index: image for index, image in self._edited.items() if index and index in segment}
        return {index - segment.start: to_working(image[None], self.size) for index, image in sorted(inside.items())}

    def _region(self, index: int) -> Mask:
        return resize_mask(self._cut(self.target.mask[index], index)[None], self.size)

    def _cut(self, frame: NDArray[_Value], index: int) -> NDArray[_Value]:
        return frame[self.target.window.at(index)]

    def _relative(self, images: Mapping[int, Image], segment: Segment) -> dict[int, Image]:
        return {index - segment.start: image for index, image in images.items()}

    def _shrink(self, frames: Frames) -> Pixels:
        return pad_frames(to_working(frames, self.size), self.job.card.frame_step)

    def _shrink_mask(self, mask: Mask) -> Mask:
        return pad_frames(resize_mask(mask, self.size), self.job.card.frame_step)


class _Pieces:
    """A target's window of a clip; what was just read is not read again."""

    def __init__(self, target: EditTarget, read: Read) -> None:
        self._window, self._frames = target.window, read
        self._begun, self._kept = 0, list[Image]()

    def span(self, start: int, stop: int) -> Frames:
        """The window's part of the frames from ``start`` up to ``stop``, uint8 ``[F, H, W, 3]``."""
        known = self._begun <= start < self._begun + len(self._kept)
        kept = self._kept[start - self._begun : stop - self._begun] if known else []
        begin = start + len(kept)
        if begin < stop:
            more = enumerate(self._frames(begin, stop), begin)
            kept += [frame[self._window.at(index)].copy() for index, frame in more]
            self._begun, self._kept = start, kept
        return np.stack(kept)

    def at(self, index: int) -> Image:
        """The window's part of a frame."""
        image: Image = self.span(index, index + 1)[0]
        return image


def _nearest(segment: Segment, key: int) -> int:
    """The frame of a segment that is nearest to a key frame outside of it."""
    return segment.start if key < segment.start else segment.stop - 1
