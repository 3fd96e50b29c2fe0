"""A job's arrays as the model takes them: its working size and length, and what is shown inside the mask."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from loraedit import masks
from loraedit.carry import Carried, carry
from loraedit.compose import composite, pad_frames, resize_weights, to_uint8, to_working, working_size
from loraedit.conditioning import FILL, Hint
from loraedit.inputs import Job
from loraedit.types import Clip, Frames, Mask, OnStep, Pixels, Size, Weights

__all__ = ["Hints", "Working", "in_window", "make_working"]


@dataclass(frozen=True)
class Hints:
    """Key frames carried along the source's motion, for the inside of the mask.

    Attributes:
        taught: the source's own key frames, carried: what the LoRA learns from.
        shown: the edited key frames, carried in the same way: what is generated from.
        from_first: the edited first frame alone, carried: what a reference's sample starts from.
        full: what is generated from, at the source's own size and length: the source outside the mask, inside it
            the edited key frames carried, grey where they are not trusted.
        trust: how far ``full`` is trusted, float32 ``[F, H, W]`` in [0, 1].
    """

    taught: Hint
    shown: Hint
    from_first: Hint
    full: Frames
    trust: Weights


@dataclass(frozen=True)
class Working:
    """The job's arrays at the model's working size and length; hints if the settings ask for them."""

    source: Pixels
    edited_first: Pixels
    mask: Mask
    references: dict[int, Pixels]
    hints: Hints | None


def in_window(job: Job) -> Job:
    """The job with its arrays cut to the window."""
    window = job.window
    return replace(
        job,
        source=Clip(window.cut(job.source.frames), job.source.fps),
        edited_first=window.cut_frame(job.edited_first, 0),
        edit_mask=window.cut(job.edit_mask),
        references={index: window.cut_frame(image, index) for index, image in job.references.items()},
    )


def make_working(job: Job, on_step: OnStep) -> Working:
    """Bring the job's arrays to the working size and length, and carry the key frames if the settings ask for it.

    Args:
        on_step: told how far the carrying is, (done, total).
    """
    size = working_size(job.source.size, job.card.settings.area_px, job.card.multiple_px)
    step = job.card.frame_step
    return Working(
        source=_shrink(job.source.frames, size, step),
        edited_first=to_working(job.edited_first[None], size),
        mask=pad_frames(masks.resize_mask(job.edit_mask, size), step),
        references={index: to_working(image[None], size) for index, image in sorted(job.references.items())},
        hints=_hints(job, size, on_step) if job.settings.fill == "carry" and job.settings.lora == "motion" else None,
    )


def _hints(job: Job, size: Size, on_step: OnStep) -> Hints:
    source = job.source.frames
    edited = {0: job.edited_first, **job.references}
    unedited = {index: source[index] for index in edited}
    first = [{0: job.edited_first}] if job.references else []
    taught, carried, *alone = carry(source, [unedited, edited, *first], on_step)

    def hint(clip: Carried) -> Hint:
        trust = pad_frames(resize_weights(clip.trust, size), job.card.frame_step)
        return Hint(_shrink(clip.frames, size, job.card.frame_step), trust)

    trusted = composite(np.full_like(source, to_uint8(np.array([FILL], np.float32))), carried.frames, carried.trust)
    full = np.where(job.edit_mask[..., None], trusted, source)
    return Hints(hint(taught), hint(carried), hint(alone[0] if alone else carried), full, carried.trust)


def _shrink(frames: Frames, size: Size, step: int) -> Pixels:
    return pad_frames(to_working(frames, size), step)
