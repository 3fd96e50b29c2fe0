"""What the model takes of one segment of a target: at the working size, and at a length that the model accepts.

    keyframes with flow paths -> keyframes of the segment -> carried keyframes -> guide -> training or generation input

Inside the mask the model may be shown a guide: keyframes carried along the source's motion. The user's edited frames
are keyframes of every segment, however far away they are, so that the edit does not drift from segment to segment. The
last fixed frame, from the segment before, is one more keyframe, for what no edited frame shows.

Values flow one way, and no function depends on an earlier call. A segment is in memory at a time.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from loraedit.diffusion.samples import Guide
from loraedit.editing.target_clip import ClipKeyframe, TargetClip, nearest_frame
from loraedit.job.segments import Segment
from loraedit.masks.shaping import resize_mask
from loraedit.propagation.carry import TRUSTED, CarriedKeyframes, carry_keyframes
from loraedit.propagation.keyframes import Keyframe
from loraedit.types import Frames, Mask, OnStep, Pixels, no_step
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
    clip: TargetClip, segment: Segment, carried: CarriedSegment | None = None, on_step: OnStep = no_step
) -> TrainingInput:
    """Builds what is learned from a segment.

    Args:
        clip: the target's clip.
        segment: one of the job's segments.
        carried: the result of :func:`carry_first_segment` for this segment, if it is known.
        on_step: called with (frames done, frames in all) while keyframes are carried.
    """
    source, references = clip.source.span(segment.start, segment.stop), _references(clip, segment)
    training = None
    if clip.job.settings.carries:
        training = carried.training if carried else _carry_for_training(clip, segment, source, on_step)
    first = training.edited_first if training else None
    return TrainingInput(
        source=_at_working_size(clip, source),
        mask=_mask_at_working_size(clip, segment),
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
) -> GenerationInput:
    """Builds what a segment is generated from.

    Args:
        clip: the target's clip.
        segment: one of the job's segments.
        generated: its fixed frames as the segment before generated them, uint8 ``[F, h, w, 3]`` at the window's size;
            none in the first segment.
        carried: the result of :func:`carry_first_segment` for this clip and segment, if it is known.
        quick: measure the flow on frames of their own size, and look for no added parts; for a preview.
        on_step: called with (frames done, frames in all) while keyframes are carried.
    """
    keyframes = None
    if clip.job.settings.carries:
        keyframes = carried.generation if carried else _carry_for_generation(clip, segment, generated, quick, on_step)
    fixed = generated if len(generated) else clip.first.edited[None]
    return GenerationInput(
        source=_at_working_size(clip, clip.below.span(segment.start, segment.stop)),
        mask=_mask_at_working_size(clip, segment),
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
    source = clip.source.span(segment.start, segment.stop)
    training, generation = _training_choices(clip, segment, source), _generation_choice(clip, segment)
    *for_training, for_generation = _carry(clip, segment, source, [*training, generation], on_step)
    return CarriedSegment(_for_training(for_training), for_generation)


def _carry_for_training(clip: TargetClip, segment: Segment, source: Frames, on_step: OnStep) -> CarriedForTraining:
    return _for_training(_carry(clip, segment, source, _training_choices(clip, segment, source), on_step))


def _for_training(carried: list[CarriedKeyframes]) -> CarriedForTraining:
    first, first_and_last, *edited_first = carried
    return CarriedForTraining((first, first_and_last), edited_first[0] if edited_first else None)


def _carry_for_generation(
    clip: TargetClip, segment: Segment, generated: Frames, quick: bool, on_step: OnStep
) -> CarriedKeyframes:
    source, choice = clip.source.span(segment.start, segment.stop), _generation_choice(clip, segment)
    count = len(generated)
    if count:
        choice["last fixed"] = Keyframe(count - 1, generated[-1], source[count - 1], generated=True)
        choice = {name: each for name, each in choice.items() if each.index != count - 1 or each.generated}
    (carried,) = _carry(clip, segment, source, [choice], on_step, quick)
    frames = np.concatenate([generated, carried.frames[count:]])
    return CarriedKeyframes(frames, np.concatenate([np.ones_like(carried.trust[:count]), carried.trust[count:]]))


def _carry(
    clip: TargetClip,
    segment: Segment,
    source: Frames,
    choices: list[dict[str, Keyframe]],
    on_step: OnStep,
    quick: bool = False,
) -> list[CarriedKeyframes]:
    """Carries several choices of named keyframes; the same name means the same keyframe."""
    keyframes = {name: keyframe for choice in choices for name, keyframe in choice.items()}
    flow = replace(clip.flow, min_side_px=0) if quick else clip.flow
    mask = None if quick else clip.mask(segment.start, segment.stop)
    return carry_keyframes(source, keyframes, choices, mask, flow, on_step)


# ---- keyframes of a segment ------------------------------------------------------------------------------------------


def _training_choices(clip: TargetClip, segment: Segment, source: Frames) -> list[dict[str, Keyframe]]:
    """Returns the keyframes of each guide for training.

    The last fixed frame is the source's own here; in generation it is a generated one, so it counts as generated.
    """
    first = {"source first": _keyframe(clip.first, segment, is_source=True)}
    last = {"source last": _source_keyframe(source, len(source) - 1)} if len(source) > 1 else {}
    fixed = {"source fixed": _source_keyframe(source, segment.fixed - 1, generated=True)} if segment.fixed else {}
    choices = [first | fixed, first | last | fixed]
    if any(keyframe.index and keyframe.index in segment for keyframe in clip.keyframes):
        choices.append(_edited_keyframes([clip.first], segment))
    return choices


def _generation_choice(clip: TargetClip, segment: Segment) -> dict[str, Keyframe]:
    return _edited_keyframes(clip.keyframes, segment)


def _edited_keyframes(keyframes: Iterable[ClipKeyframe], segment: Segment) -> dict[str, Keyframe]:
    return {f"edited {each.index}": _keyframe(each, segment, is_source=False) for each in keyframes}


def _keyframe(keyframe: ClipKeyframe, segment: Segment, *, is_source: bool) -> Keyframe:
    """Returns a keyframe of the clip, or its source counterpart, as one of a segment."""
    index, image = keyframe.index - segment.start, keyframe.source if is_source else keyframe.edited
    if keyframe.index in segment:
        return Keyframe(index, image, keyframe.source, is_source)
    path = keyframe.paths[nearest_frame(segment, keyframe.index)]
    return Keyframe(index, image, keyframe.source, is_source, path=path, shape=keyframe.shape)


def _source_keyframe(source: Frames, index: int, *, generated: bool = False) -> Keyframe:
    return Keyframe(index, source[index], source[index], is_source=True, generated=generated)


# ---- at the working size ---------------------------------------------------------------------------------------------


def _references(clip: TargetClip, segment: Segment) -> dict[int, Pixels]:
    inside = {each.index: each.edited for each in clip.keyframes if each.index and each.index in segment}
    return {index - segment.start: to_working(image[None], clip.size) for index, image in sorted(inside.items())}


def _reference_mask(clip: TargetClip, index: int) -> Mask:
    return resize_mask(clip.mask(index, index + 1), clip.size)


def _guide(clip: TargetClip, carried: CarriedKeyframes) -> Guide:
    trust = pad_frames(resize_weights(carried.trust, clip.size), clip.job.card.frame_step)
    return Guide(_at_working_size(clip, carried.frames), trust >= TRUSTED)


def _at_working_size(clip: TargetClip, frames: Frames) -> Pixels:
    return pad_frames(to_working(frames, clip.size), clip.job.card.frame_step)


def _mask_at_working_size(clip: TargetClip, segment: Segment) -> Mask:
    return pad_frames(resize_mask(clip.mask(segment.start, segment.stop), clip.size), clip.job.card.frame_step)
