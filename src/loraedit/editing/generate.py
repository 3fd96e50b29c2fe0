"""Generates an edit target segment by segment. Each segment starts from the last frames of the one before it."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from torch import Tensor

from loraedit.diffusion import samples as conditioning
from loraedit.diffusion.samples import Sample
from loraedit.editing.cache import StageCache
from loraedit.editing.context import EditContext
from loraedit.editing.decoding import decode_segment
from loraedit.editing.pieces import keep_pieces
from loraedit.editing.preparation import Preparation
from loraedit.editing.preview import Previews
from loraedit.editing.reporter import Reporter
from loraedit.editing.segment_inputs import CarriedSegment, GenerationInput, first_frame, generation_input
from loraedit.editing.target_clip import TargetClip
from loraedit.families.base import Encoded
from loraedit.job.segments import Segment
from loraedit.masks.compositing import composite, restore_detail
from loraedit.masks.shaping import feather
from loraedit.runtime.distributed import together
from loraedit.sampling.sampler import sample
from loraedit.settings import ResolvedSettings
from loraedit.storage.files import save_tensors, try_load_tensors
from loraedit.types import Frames, OnStep, no_step, part_of

__all__ = ["TargetGeneration", "first_condition", "first_edited"]


@dataclass(frozen=True)
class TargetGeneration:
    """The generation of one edit target.

    Attributes:
        clip: the target's clip, over the targets before.
        carried: the keyframes carried through the first segment, if they are known.
        preparation: prepares the segments of ``clip`` for generation.
        number: index of the target.
        loras: LoRA file by expert name.
        previews: shows how the sampling of the first segment goes; None without previews.
    """

    context: EditContext
    cache: StageCache
    reporter: Reporter
    clip: TargetClip
    carried: CarriedSegment | None
    preparation: Preparation
    number: int
    loras: dict[str, Path]
    previews: Previews | None

    def run(self) -> bool:
        """Generates the target's window in all frames and keeps it as pieces.

        Returns:
            True if the cache had the latents of all segments.
        """
        segments = self.context.job.segments
        ends = [following.start for following in segments[1:]] + [len(self.context.job.source)]
        tail: Frames = np.empty((0, *self.clip.first.edited.shape), np.uint8)
        reused = []
        for index, (segment, end) in enumerate(zip(segments, ends, strict=True)):
            frames, found = self._segment_frames(segment, tail, index)
            if index == 0:
                frames[0] = self.clip.first.edited
            frames[: len(tail)] = _fade(tail, frames[: len(tail)], segment.fixed)
            keep_pieces(self.context.folder, self.number, segment.start, frames[: end - segment.start])
            tail = frames[end - segment.start :]
            reused.append(found)
        return all(reused)

    def _segment_frames(self, segment: Segment, tail: Frames, index: int) -> tuple[Frames, bool]:
        """Returns the frames of a segment, and True if nothing was sampled. An unedited segment stays as it is.

        Args:
            segment: the segment.
            tail: the first frames of the segment as the segment before has generated them.
            index: index of the segment.
        """
        if not self.clip.target.edits(segment):
            return self.clip.below.span(segment.start, segment.stop), True
        generated = self._composited(segment, tail[: segment.fixed])
        if self.preparation.carries:
            with self.reporter.phase("prepare", *self._part(index)) as on_step:
                inputs = self._inputs(segment, generated, on_step)
        else:
            inputs = self._inputs(segment, generated)
        self.preparation.start(first_edited(self.clip, index + 1))
        return self._generate(segment, inputs, index)

    def _inputs(self, segment: Segment, generated: Frames, on_step: OnStep = no_step) -> GenerationInput:
        prepared, carrying = self.preparation.take(segment, part_of(on_step, 0, 2)), part_of(on_step, 1, 2)
        return generation_input(self.clip, segment, generated, self.carried, on_step=carrying, prepared=prepared)

    def _generate(self, segment: Segment, inputs: GenerationInput, index: int) -> tuple[Frames, bool]:
        """Returns the generated frames of a segment at the window's size, and True if the cache had their latents."""
        context, (part, parts) = self.context, self._part(index)
        condition = _condition(context.settings, self.clip, inputs)
        ((key, encoded),) = self.cache.encoded([condition], part, parts).items()
        shown = context.family.shown_cells(condition)
        latents, reused = self._latents(key, encoded, shown, index)
        with self.reporter.phase("decode", part, parts):
            generated = decode_segment(context, self.clip, latents, segment)
            if inputs.carried is None or not context.settings.restore_detail:
                return generated, reused
            seen_latents = encoded.condition[-context.job.card.latent_channels :]
            seen = decode_segment(context, self.clip, seen_latents, segment)
            return restore_detail(generated, inputs.carried.frames, seen, inputs.carried.trust), reused

    def _latents(self, condition_key: str, encoded: Encoded, shown: Tensor, index: int) -> tuple[Tensor, bool]:
        """Returns the latents of a segment, and True if the cache had them. Sampling continues an interrupted one."""
        path = self.cache.path("latents", self._latents_key(condition_key))
        steps_folder = path.with_suffix("")
        kept = try_load_tensors(path, ("latents",))
        latents = self._sample(encoded, shown, steps_folder, index) if kept is None else kept["latents"]
        if kept is None:
            save_tensors(path, {"latents": latents})
        shutil.rmtree(steps_folder, ignore_errors=True)
        return latents, kept is not None

    def _latents_key(self, condition_key: str) -> str:
        sampling, extras = self.context.settings.sampling(), self.context.extra_keys()
        unused = set() if self.context.job.card.guided(sampling.guidance) else {"negative_prompt"}
        stems = [path.stem for path in self.loras.values()]
        settings, attention = sampling.model_dump(exclude=unused), self.context.resources.attention
        return self.cache.key(stems, settings, extras, attention, condition_key)

    def _sample(self, encoded: Encoded, shown: Tensor, steps_folder: Path, index: int) -> Tensor:
        """Samples the latents of a segment, in all processes together."""
        context, sampling = self.context, self.context.settings.sampling()
        guided = context.job.card.guided(sampling.guidance)
        negative = self.cache.prompt_embedding(sampling.negative_prompt) if guided else None
        on_estimate = self.previews.sampled if self.previews is not None and index == 0 else None
        with self.reporter.phase("sample", *self._part(index)) as on_step:
            return together(
                partial(sample, extras=context.job.extras, shown=shown), context.family, encoded, negative, sampling,
                self.loras, context.device, steps_folder, on_step=on_step, on_estimate=on_estimate,
            )  # fmt: skip

    def _part(self, index: int) -> tuple[int, int]:
        """Returns the number of a segment among those of all targets, and how many there are in all."""
        segments = len(self.context.job.segments)
        return self.number * segments + index, len(self.context.job.targets) * segments

    def _composited(self, segment: Segment, generated: Frames) -> Frames:
        """Returns the first frames of a segment as the result will show them: composited on what lies below."""
        if not len(generated):
            return generated
        known = replace(segment, stop=segment.start + len(generated))
        alpha = feather(self.clip.mask(known.start, known.stop), self.context.job.feather_px)
        return composite(self.clip.below.span(known.start, known.stop), generated, alpha)


def first_edited(clip: TargetClip, index: int = 0) -> Segment | None:
    """Returns the first segment that a target edits, from an index on; None if there is no further one."""
    return next((segment for segment in clip.job.segments[index:] if clip.target.edits(segment)), None)


def first_condition(context: EditContext, clip: TargetClip) -> Sample:
    """Returns the condition of the first segment for previews, by the quick flow."""
    nothing = clip.first.edited[None][:0]
    inputs = generation_input(clip, context.job.segments[0], nothing, quick=True)
    return _condition(context.settings, clip, inputs)


def _condition(settings: ResolvedSettings, clip: TargetClip, inputs: GenerationInput) -> Sample:
    """Returns the condition of a segment. An image encoder always sees the user's first frame."""
    # Only the motion LoRA reads a mask inside a frame; without it the model gets plain image-to-video.
    masked = settings.lora == "motion"
    mask = inputs.mask if masked else np.ones_like(inputs.mask)
    references = inputs.references if masked and settings.condition_on_references else {}
    first = inputs.fixed_frames[0]
    fixed = {**references, **{index: frame for index, frame in inputs.fixed_frames.items() if index}}
    condition = conditioning.inference_condition(
        inputs.source, first, mask, clip.target.texts.edited, inputs.guide, fixed
    )
    return replace(condition, image=first_frame(clip, edited=True), frame_rate=clip.job.frame_rate)


def _fade(before: Frames, after: Frames, fixed: int) -> Frames:
    """Fades from one segment into the next over the frames that both have.

    Args:
        before: these frames from the segment before.
        after: the same frames from the next segment.
        fixed: the first frames, which stay as they are in ``before``.
    """
    share = np.clip((np.arange(len(before)) - fixed + 1) / (len(before) - fixed + 1), 0, 1)
    return composite(before, after, np.broadcast_to(share[:, None, None], before.shape[:3]).astype(np.float32))
