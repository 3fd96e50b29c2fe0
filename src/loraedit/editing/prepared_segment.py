"""What the inputs of a segment take from the source alone: the slow part that the CPU does, in any thread."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from loraedit.editing.segment_keyframes import all_keyframes, generation_choice, training_choices
from loraedit.editing.target_clip import TargetClip
from loraedit.job.segments import Segment
from loraedit.masks.shaping import resize_mask
from loraedit.optical_flow.base import FlowOptions
from loraedit.propagation.keyframes import Keyframe
from loraedit.propagation.paths import FlowPaths, find_paths
from loraedit.types import Frames, Mask, OnStep, Pixels, no_step
from loraedit.video.scaling import pad_frames, to_working

__all__ = ["PreparedSegment", "at_working_size", "flow_of", "prepare_generation", "prepare_training"]


@dataclass(frozen=True)
class PreparedSegment:
    """What the inputs of a segment take from the source alone.

    Attributes:
        frames: the source at the window's size, uint8 ``[F, h, w, 3]``; no frames without ``paths``.
        source: what is learned from or edited, at the working size and length.
        mask: the edit mask, likewise.
        paths: the flow paths to the keyframes; None if no keyframe is to be carried.
    """

    frames: Frames
    source: Pixels
    mask: Mask
    paths: FlowPaths | None


def prepare_training(clip: TargetClip, segment: Segment, carries: bool, on_step: OnStep = no_step) -> PreparedSegment:
    """Prepares a segment to learn from.

    Args:
        clip: the target's clip.
        segment: one of the job's segments.
        carries: whether keyframes are to be carried.
        on_step: called with (frames done, frames in all) while flow is measured.
    """
    frames = clip.source.span(segment.start, segment.stop)
    keyframes = all_keyframes(training_choices(clip, segment, frames)).values() if carries else None
    return _prepared(clip, segment, frames, frames, keyframes, clip.flow, on_step)


def prepare_generation(
    clip: TargetClip, segment: Segment, carries: bool, on_step: OnStep = no_step, *, quick: bool = False
) -> PreparedSegment:
    """Prepares a segment to generate. Its fixed frames need not be known: their flow is that of the source.

    Args:
        clip: the target's clip.
        segment: one of the job's segments.
        carries: whether keyframes are to be carried.
        on_step: called with (frames done, frames in all) while flow is measured.
        quick: see :func:`loraedit.editing.segment_inputs.generation_input`.
    """
    frames, below = (each.span(segment.start, segment.stop) for each in (clip.source, clip.below))
    keyframes = generation_choice(clip, segment, frames, frames[: segment.fixed]).values() if carries else None
    return _prepared(clip, segment, frames, below, keyframes, flow_of(clip, quick), on_step)


def flow_of(clip: TargetClip, quick: bool) -> FlowOptions:
    """Returns the options of the flow estimator; for a preview, frames are not enlarged."""
    return replace(clip.flow, min_side_px=0) if quick else clip.flow


def at_working_size(clip: TargetClip, frames: Frames) -> Pixels:
    """Returns frames of the window's size at the working size and length."""
    return pad_frames(to_working(frames, clip.size), clip.job.card.frame_step)


def _prepared(
    clip: TargetClip,
    segment: Segment,
    frames: Frames,
    shown: Frames,
    keyframes: Iterable[Keyframe] | None,
    flow: FlowOptions,
    on_step: OnStep,
) -> PreparedSegment:
    """Prepares a segment; ``shown`` is what is learned from or edited, at the window's size."""
    mask = pad_frames(resize_mask(clip.mask(segment.start, segment.stop), clip.size), clip.job.card.frame_step)
    source = at_working_size(clip, shown)
    if keyframes is None:
        return PreparedSegment(np.empty((0, *frames.shape[1:]), np.uint8), source, mask, None)
    return PreparedSegment(frames, source, mask, find_paths(frames, keyframes, flow, on_step))
