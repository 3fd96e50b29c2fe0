"""The texts and pictures that the encoders read in an edit, as far as they are known before anything is generated."""

from __future__ import annotations

from collections.abc import Iterator

from loraedit.diffusion.samples import colour_changes
from loraedit.editing.context import EditContext
from loraedit.editing.pieces import first_frame_with
from loraedit.editing.segment_inputs import first_frame
from loraedit.editing.target_clip import TargetClip, open_keyframes
from loraedit.families.base import EncoderInput
from loraedit.types import Image, Pixels
from loraedit.video.scaling import to_working

__all__ = ["known_inputs"]


def known_inputs(context: EditContext) -> list[EncoderInput]:
    """Returns what the encoders read for the training and the generation of every target, and the negative prompt.

    Pictures that depend on what is generated are left out: a first-last-frame model reads such a last frame.
    """
    family, sampling = context.family, context.settings.sampling()
    inputs = family.encoder_inputs(sampling.negative_prompt) if context.job.card.guided(sampling.guidance) else []
    for prompt, picture in _pairs(context):
        inputs += family.encoder_inputs(prompt, [picture])
    return inputs


def _pairs(context: EditContext) -> Iterator[tuple[str, Pixels]]:
    """Yields each prompt with the picture that belongs to it."""
    firsts: list[Image] = []
    for target in context.job.targets:
        clip = open_keyframes(context.job, target)
        if context.settings.lora != "none":
            yield from _training_pairs(clip)
        below = first_frame_with(context.job, firsts)[target.window.at(0)]
        firsts.append(target.keyframe(0, below))
        yield target.texts.edited, to_working(firsts[-1][None], clip.size)


def _training_pairs(clip: TargetClip) -> Iterator[tuple[str, Pixels]]:
    texts, settings = clip.target.texts, clip.job.settings
    source = first_frame(clip, edited=False)
    for change in colour_changes(settings.train_seed, settings.colour_variants):
        yield texts.source, change(source)
    for keyframe in clip.keyframes if settings.reference_steps else ():
        if keyframe.index:
            yield texts.reference(keyframe.index), to_working(keyframe.source[None], clip.size)
