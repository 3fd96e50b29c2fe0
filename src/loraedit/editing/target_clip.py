"""A target's window of the clip with its keyframes, the flow paths to them, and how they change an object's outline.

    keyframes (user's edited frames) -> flow paths from every segment -> changes of an object's outline

All of it is computed once per target. :mod:`loraedit.editing.segment_inputs` then works on one segment at a time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from loraedit.editing.windows import ReadFrames, WindowReader
from loraedit.job.prepare import Job
from loraedit.job.segments import Segment
from loraedit.job.targets import EditTarget
from loraedit.optical_flow.base import FlowOptions
from loraedit.optical_flow.fields import Field
from loraedit.propagation.added_parts import ShapeChange
from loraedit.propagation.foreground import ForegroundSeparator
from loraedit.propagation.paths import PROPAGATION_FLOW, trace_paths
from loraedit.runtime.devices import find_device
from loraedit.types import Image, Mask, OnStep, Size, no_step

__all__ = ["ClipKeyframe", "TargetClip", "nearest_frame", "open_keyframes", "open_target_clip", "over_lower_targets"]

CONTEXT_FRAMES = 16
"""Frames before and after a keyframe in which its object is separated from the background."""


@dataclass(frozen=True)
class ClipKeyframe:
    """One of the user's edited frames, at the window's size.

    Attributes:
        index: frame index in the clip.
        source: the unedited frame, uint8 ``[h, w, 3]``.
        edited: the edited frame, uint8 ``[h, w, 3]``; where it is not of this target, what the targets below show.
        paths: the flow path to the keyframe from the nearest frame of each segment without it, by that frame's index;
            see :attr:`loraedit.propagation.keyframes.Keyframe.path`. Empty if keyframes are not carried.
        shape: how it changes the outline of an object, for the segments without it.
    """

    index: int
    source: Image
    edited: Image
    paths: Mapping[int, Field] = field(default_factory=dict)
    shape: ShapeChange | None = None


@dataclass(frozen=True)
class TargetClip:
    """A target's window of the clip.

    Attributes:
        job: the job that the target is part of.
        target: what is edited.
        source: reads the source.
        below: reads the source with the targets below laid over it.
        keyframes: the user's edited frames, in the order of the target.
        flow: the options of the flow estimator.
    """

    job: Job
    target: EditTarget
    source: WindowReader
    below: WindowReader
    keyframes: tuple[ClipKeyframe, ...]
    flow: FlowOptions

    @property
    def size(self) -> Size:
        """The working size: height and width of what the model sees."""
        return self.job.card.working_size(self.target.window.size, self.job.settings)

    @property
    def first(self) -> ClipKeyframe:
        """The clip's first frame."""
        return next(keyframe for keyframe in self.keyframes if keyframe.index == 0)

    def for_another_thread(self) -> TargetClip:
        """Returns the same clip with readers of its own."""
        source = self.source.another()
        return replace(self, source=source, below=source if self.below is self.source else self.below.another())

    def mask(self, start: int, stop: int) -> Mask:
        """Returns the window's part of the mask of some frames, bool ``[F, h, w]``."""
        return self.target.window.cut((self.target.mask[index] for index in range(start, stop)), start)


def open_target_clip(job: Job, target: EditTarget, on_step: OnStep = no_step) -> TargetClip:
    """Reads a target's keyframes, and finds the flow paths that lead to them from the segments without them.

    Args:
        job: the job.
        target: one of the job's targets.
        on_step: called with (frames done, frames in all) as the clip is walked through.
    """
    clip = open_keyframes(job, target)
    if job.settings.carries and len(job.segments) > 1:
        return _with_shape_changes(_with_paths(clip, on_step))
    return clip


def open_keyframes(job: Job, target: EditTarget) -> TargetClip:
    """Reads a target's keyframes, without flow paths to them."""
    source = WindowReader(target.window, job.source.rgb)
    device = str(find_device(job.settings.device))
    flow = replace(PROPAGATION_FLOW, estimator=job.settings.flow_estimator, device=device)
    return TargetClip(job, target, source, source, _read_keyframes(target, source, source), flow)


def over_lower_targets(clip: TargetClip, below: ReadFrames) -> TargetClip:
    """Returns the clip for generating on top of other targets; the flow paths stay as they are.

    Args:
        clip: as opened.
        below: reads the source with those targets laid over it.
    """
    reader = WindowReader(clip.target.window, below)
    edited = {each.index: each.edited for each in _read_keyframes(clip.target, clip.source, reader)}
    keyframes = tuple(replace(each, edited=edited[each.index]) for each in clip.keyframes)
    return _with_shape_changes(replace(clip, below=reader, keyframes=keyframes))


def nearest_frame(segment: Segment, index: int) -> int:
    """Returns the frame of a segment that is nearest to a frame outside of it."""
    return segment.start if index < segment.start else segment.stop - 1


def _read_keyframes(target: EditTarget, source: WindowReader, below: WindowReader) -> tuple[ClipKeyframe, ...]:
    return tuple(
        ClipKeyframe(index, source.frame(index), target.keyframe(index, below.frame(index)))
        for index in target.keyframes
    )


# ---- flow paths to keyframes outside of a segment --------------------------------------------------------------------


def _with_paths(clip: TargetClip, on_step: OnStep) -> TargetClip:
    walks = [
        (keyframe.index, ahead)
        for keyframe in clip.keyframes
        for ahead in (True, False)
        if _path_starts(clip.job, keyframe.index, ahead)
    ]
    paths: dict[int, dict[int, Field]] = {keyframe.index: {} for keyframe in clip.keyframes}
    for order, (index, ahead) in enumerate(walks):

        def on_walk(done: int, total: int, order: int = order) -> None:
            on_step(order * total + done, len(walks) * total)

        distances = {abs(start - index): start for start in _path_starts(clip.job, index, ahead)}
        frames = clip.source.forwards(index) if ahead else clip.source.backwards(index)
        traced = trace_paths(frames, distances, on_walk, clip.flow)
        paths[index] |= {start: traced[distance] for distance, start in distances.items()}
    keyframes = tuple(replace(keyframe, paths=paths[keyframe.index]) for keyframe in clip.keyframes)
    return replace(clip, keyframes=keyframes)


def _path_starts(job: Job, index: int, ahead: bool) -> list[int]:
    """Returns the frames from which a path to a keyframe is needed: those after it, or those before it."""
    starts = {nearest_frame(segment, index) for segment in job.segments if index not in segment}
    return sorted(start for start in starts if (start > index) == ahead)


def _with_shape_changes(clip: TargetClip) -> TargetClip:
    """Finds how those keyframes change the outline of an object that some segment does not contain."""
    keyframes = tuple(replace(keyframe, shape=_find_shape_change(clip, keyframe)) for keyframe in clip.keyframes)
    return replace(clip, keyframes=keyframes)


def _find_shape_change(clip: TargetClip, keyframe: ClipKeyframe) -> ShapeChange | None:
    if not keyframe.paths:
        return None
    start = max(0, keyframe.index - CONTEXT_FRAMES)
    stop = min(len(clip.target.mask), keyframe.index + CONTEXT_FRAMES + 1)
    separator = ForegroundSeparator(clip.source.span(start, stop), clip.mask(start, stop), clip.flow)
    return separator.find_shape_change(keyframe.index - start, keyframe.edited)
