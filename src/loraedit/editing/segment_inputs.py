"""What the model takes of one segment of a target: at the working size, and at a length that the model accepts.

    prepared segment: source frames, mask, flow paths -> carried keyframes -> guide -> training or generation input

Inside the mask the model may be shown a guide: keyframes carried along the source's motion. The user's edited frames
are keyframes of every segment, however far away they are, so that the edit does not drift from segment to segment. The
last fixed frame, from the segment before, is one more keyframe, for what no edited frame shows.

A prepared segment holds what depends on the source alone, and takes the most time on the CPU, so it can be made before
the segment's fixed frames are generated, and in another thread (:mod:`loraedit.editing.prepared_segment`).

Values flow one way, and no function depends on an earlier call.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from loraedit.diffusion.samples import Guide
from loraedit.editing.prepared_segment import (
    PreparedSegment,
    at_working_size,
    flow_of,
    prepare_generation,
    prepare_training,
)
from loraedit.editing.segment_keyframes import all_keyframes, generation_choice, training_choices
from loraedit.editing.target_clip import TargetClip
from loraedit.job.segments import Segment
from loraedit.masks.shaping import resize_mask
from loraedit.optical_flow.base import FlowOptions
from loraedit.propagation.carry import TRUSTED, CarriedKeyframes, carry_keyframes
from loraedit.propagation.keyframes import Keyframe
from loraedit.propagation.paths import FlowPaths
from loraedit.types import Frames, Mask, OnStep, Pixels, no_step, part_of
from loraedit.video.scaling import pad_frames, resize_weights, to_working

__all__ = [
    "CarriedForTraining",
    "CarriedSegment",
    "GenerationInput",
    "TrainingInput",
    "carry_first_segment",
    "first_frame",
    "generation_input",
    "training_input",
]


@dataclass(frozen=True)
class TrainingInput:
    """A segment to learn from, at the working size and length.

    Attributes:
        source: the source clip.
        mask: the edit mask.
        source_guides: the source's own first frame, carried, and the same together with the segment's last frame; empty
            if nothing is to be shown. They do not depend on the edit, so the LoRA that learns them serves every edit.
            The LoRA learns from them what is shown without references, and with them.
        references: the user's further edited frames in this segment, ``[1, H, W, 3]`` by index within it.
        reference_masks: the edit mask of each of them, ``[1, H, W]``.
        first_frame_guide: the edited first frame alone, carried; the sample of a reference starts from it.
    """

    source: Pixels
    mask: Mask
    source_guides: list[Guide]
    references: dict[int, Pixels]
    reference_masks: dict[int, Mask]
    first_frame_guide: Guide | None


@dataclass(frozen=True)
class GenerationInput:
    """A segment to generate, at the working size and length.

    Attributes:
        source: the source clip, with the targets below laid over it.
        mask: the edit mask.
        fixed_frames: frames given as a whole, ``[1, H, W, 3]`` by index within the segment: the edited first frame, or
            what was generated for the segment before.
        references: the user's further edited frames in this segment, likewise.
        guide: the edited keyframes, carried; None if nothing is to be shown.
        carried: the same at the window's own size and the segment's own length.
    """

    source: Pixels
    mask: Mask
    fixed_frames: dict[int, Pixels]
    references: dict[int, Pixels]
    guide: Guide | None
    carried: CarriedKeyframes | None


@dataclass(frozen=True)
class CarriedForTraining:
    """Keyframes carried through a segment for training, at the window's size.

    Attributes:
        source: the source's own first frame, and the same together with the segment's last frame.
        edited_first: the edited first frame alone; None if there is no reference in the segment.
    """

    source: tuple[CarriedKeyframes, CarriedKeyframes]
    edited_first: CarriedKeyframes | None


@dataclass(frozen=True)
class CarriedSegment:
    """Keyframes carried through the first segment, for training and for generation by the same flow."""

    training: CarriedForTraining
    generation: CarriedKeyframes


def training_input(
    clip: TargetClip,
    segment: Segment,
    carried: CarriedSegment | None = None,
    on_step: OnStep = no_step,
    prepared: PreparedSegment | None = None,
) -> TrainingInput:
    """Builds what is learned from a segment.

    Args:
        clip: the target's clip.
        segment: one of the job's segments.
        carried: the result of :func:`carry_first_segment` for this segment, if it is known.
        on_step: called with (steps done, steps in all) while keyframes are carried.
        prepared: the result of :func:`prepare_training` for this segment, if it is known.
    """
    if prepared is None:
        prepared = prepare_training(clip, segment, _still_carries(clip, carried), part_of(on_step, 0, 2))
    training, references = carried.training if carried else None, _references(clip, segment)
    if prepared.paths is not None:
        choices = training_choices(clip, segment, prepared.frames)
        training = _for_training(_carry(clip, segment, prepared, choices, part_of(on_step, 1, 2)))
    first = training.edited_first if training else None
    return TrainingInput(
        source=prepared.source,
        mask=prepared.mask,
        source_guides=[_guide(clip, each) for each in training.source] if training else [],
        references=references,
        reference_masks={index: _reference_mask(clip, segment.start + index) for index in references},
        first_frame_guide=_guide(clip, first) if first and references else None,
    )


def generation_input(
    clip: TargetClip,
    segment: Segment,
    generated: Frames,
    carried: CarriedSegment | None = None,
    *,
    quick: bool = False,
    on_step: OnStep = no_step,
    prepared: PreparedSegment | None = None,
) -> GenerationInput:
    """Builds what a segment is generated from.

    Args:
        clip: the target's clip.
        segment: one of the job's segments.
        generated: its fixed frames as the segment before generated them, uint8 ``[F, h, w, 3]`` at the window's size;
            none in the first segment.
        carried: the result of :func:`carry_first_segment` for this clip and segment, if it is known.
        quick: measure the flow on frames of their own size, and look for no added parts; for a preview.
        on_step: called with (steps done, steps in all) while keyframes are carried.
        prepared: the result of :func:`prepare_generation` for this clip and segment, if it is known.
    """
    if prepared is None:
        carries = _still_carries(clip, carried)
        prepared = prepare_generation(clip, segment, carries, part_of(on_step, 0, 2), quick=quick)
    keyframes = carried.generation if carried else None
    if prepared.paths is not None:
        keyframes = _carry_for_generation(clip, segment, generated, prepared, quick, part_of(on_step, 1, 2))
    fixed = generated if len(generated) else clip.first.edited[None]
    return GenerationInput(
        source=prepared.source,
        mask=prepared.mask,
        fixed_frames={index: to_working(frame[None], clip.size) for index, frame in enumerate(fixed)},
        references=_references(clip, segment),
        guide=_guide(clip, keyframes) if keyframes else None,
        carried=keyframes,
    )


def first_frame(clip: TargetClip, *, edited: bool) -> Pixels:
    """Returns the clip's first frame at the working size, ``[1, H, W, 3]``: the user's edit of it, or the source's."""
    return to_working((clip.first.edited if edited else clip.first.source)[None], clip.size)


# ---- carried keyframes -----------------------------------------------------------------------------------------------


def carry_first_segment(clip: TargetClip, on_step: OnStep = no_step) -> CarriedSegment | None:
    """Carries the keyframes through the first segment at once for training and for generation, so flow is shared.

    Args:
        clip: the target's clip.
        on_step: called with (frames done, frames in all).

    Returns:
        None if keyframes are not carried, or if there are further segments: the result would take up memory until the
        first segment is generated.
    """
    if not clip.job.settings.carries or len(clip.job.segments) > 1:
        return None
    (segment,) = clip.job.segments
    frames = clip.source.span(segment.start, segment.stop)
    training = training_choices(clip, segment, frames)
    choices = [*training, generation_choice(clip, segment, frames, frames[:0])]
    *for_training, for_generation = _carry_frames(clip, segment, frames, choices, clip.flow, on_step)
    return CarriedSegment(_for_training(for_training), for_generation)


def _still_carries(clip: TargetClip, carried: CarriedSegment | None) -> bool:
    """Returns True if keyframes are carried, and the result is not known."""
    return clip.job.settings.carries and carried is None


def _for_training(carried: list[CarriedKeyframes]) -> CarriedForTraining:
    first, first_and_last, *edited_first = carried
    return CarriedForTraining((first, first_and_last), edited_first[0] if edited_first else None)


def _carry_for_generation(
    clip: TargetClip, segment: Segment, generated: Frames, prepared: PreparedSegment, quick: bool, on_step: OnStep
) -> CarriedKeyframes:
    choice = generation_choice(clip, segment, prepared.frames, generated)
    (carried,) = _carry(clip, segment, prepared, [choice], on_step, quick)
    count = len(generated)
    frames = np.concatenate([generated, carried.frames[count:]])
    return CarriedKeyframes(frames, np.concatenate([np.ones_like(carried.trust[:count]), carried.trust[count:]]))


def _carry(
    clip: TargetClip,
    segment: Segment,
    prepared: PreparedSegment,
    choices: list[dict[str, Keyframe]],
    on_step: OnStep,
    quick: bool = False,
) -> list[CarriedKeyframes]:
    """Carries several choices of named keyframes along the flow that was prepared."""
    flow = flow_of(clip, quick)
    return _carry_frames(clip, segment, prepared.frames, choices, flow, on_step, quick, prepared.paths)


def _carry_frames(
    clip: TargetClip,
    segment: Segment,
    frames: Frames,
    choices: list[dict[str, Keyframe]],
    flow: FlowOptions,
    on_step: OnStep,
    quick: bool = False,
    paths: FlowPaths | None = None,
) -> list[CarriedKeyframes]:
    mask = None if quick else clip.mask(segment.start, segment.stop)
    return carry_keyframes(frames, all_keyframes(choices), choices, mask, flow, on_step, paths)


# ---- at the working size ---------------------------------------------------------------------------------------------


def _references(clip: TargetClip, segment: Segment) -> dict[int, Pixels]:
    inside = {each.index: each.edited for each in clip.keyframes if each.index and each.index in segment}
    return {index - segment.start: to_working(image[None], clip.size) for index, image in sorted(inside.items())}


def _reference_mask(clip: TargetClip, index: int) -> Mask:
    return resize_mask(clip.mask(index, index + 1), clip.size)


def _guide(clip: TargetClip, carried: CarriedKeyframes) -> Guide:
    trust = pad_frames(resize_weights(carried.trust, clip.size), clip.job.card.frame_step)
    return Guide(at_working_size(clip, carried.frames), trust >= TRUSTED)
