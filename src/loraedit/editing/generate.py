"""A target is generated segment by segment, each conditioned on the last frames of the one before, seams faded over."""

from __future__ import annotations

import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from torch import Tensor

from loraedit.diffusion import samples as conditioning
from loraedit.diffusion.samples import Sample
from loraedit.editing.pieces import keep_pieces
from loraedit.editing.run import Run
from loraedit.editing.segment_inputs import CarriedSegment, GenerationInput, first_frame, generation_input
from loraedit.editing.target_clip import TargetClip
from loraedit.families.base import Encoded
from loraedit.job.segments import Segment
from loraedit.masks.compositing import composite, restore_detail
from loraedit.masks.shaping import feather
from loraedit.runtime.distributed import together
from loraedit.sampling.sampler import sample
from loraedit.storage.files import save_tensors, try_load_tensors
from loraedit.types import Frames
from loraedit.video.scaling import from_working

__all__ = ["first_condition", "generate"]


def generate(
    run: Run, clip: TargetClip, number: int, loras: dict[str, Path], carried: CarriedSegment | None = None
) -> bool:
    """Make a target's window of all frames and keep its pieces; whether all latents were found.

    Args:
        number: which target, from 0.
        loras: LoRA file by expert.
        carried: the keyframes carried through the first segment, if they are known.
    """
    segments = run.job.segments
    ends = [after.start for after in segments[1:]] + [len(run.job.source)]
    tail: Frames = np.empty((0, *clip.first.edited.shape), np.uint8)
    found = []
    for part, (segment, end) in enumerate(zip(segments, ends, strict=True)):
        frames, reused = _frames(run, clip, segment, tail, loras, carried, number * len(segments) + part)
        if part == 0:
            frames[0] = clip.first.edited
        frames[: len(tail)] = _faded(tail, frames[: len(tail)], segment.given)
        keep_pieces(run.folder, number, segment.start, frames[: end - segment.start])
        tail = frames[end - segment.start :]
        found.append(reused)
    return all(found)


def _frames(
    run: Run,
    clip: TargetClip,
    segment: Segment,
    tail: Frames,
    loras: dict[str, Path],
    carried: CarriedSegment | None,
    part: int,
) -> tuple[Frames, bool]:
    """The frames of a segment, and whether nothing had to be sampled for them: where nothing is edited, as they are.

    Args:
        tail: what the segment before has made of its first frames.
    """
    if not clip.target.edits(segment):
        return clip.below.span(segment.start, segment.stop), True
    scene = generation_input(clip, segment, _as_seen(run, clip, segment, tail[: segment.given]), carried)
    return _make(run, clip, segment, scene, loras, part)


def first_condition(run: Run, clip: TargetClip) -> Sample:
    """Builds the condition of the first segment for previews, with the quick flow."""
    nothing = clip.first.edited[None][:0]
    return _condition(run, clip, generation_input(clip, run.job.segments[0], nothing, quick=True))


def _make(
    run: Run, clip: TargetClip, segment: Segment, scene: GenerationInput, loras: dict[str, Path], part: int
) -> tuple[Frames, bool]:
    """The generated frames of a segment at the window's size, and whether their latents were found."""
    condition, parts = _condition(run, clip, scene), _parts(run)
    ((key, encoded),) = run.encoded([condition], part, parts).items()
    latents, reused = _latents(run, key, encoded, loras, part)
    with run.phase("decode", part, parts):
        generated = _decoded(run, clip, latents, len(segment))
        if scene.carried is None or not run.settings.restore_detail:
            return generated, reused
        seen = _decoded(run, clip, encoded.condition[-run.job.card.latent_channels :], len(segment))
        return restore_detail(generated, scene.carried.frames, seen, scene.carried.trust), reused


def _parts(run: Run) -> int:
    """How many portions of the work there are."""
    return len(run.job.targets) * len(run.job.segments)


def _condition(run: Run, clip: TargetClip, scene: GenerationInput) -> Sample:
    """What a segment is generated from; an image encoder sees the user's own first frame, whatever the segment."""
    # Only the motion LoRA reads a mask inside a frame; without it the model gets plain image-to-video.
    masked = run.settings.lora == "motion"
    mask = scene.mask if masked else np.ones_like(scene.mask)
    anchors = scene.references if masked and run.settings.condition_on_references else {}
    first = scene.fixed_frames[0]
    fixed = {**anchors, **{index: frame for index, frame in scene.fixed_frames.items() if index}}
    condition = conditioning.inference_condition(scene.source, first, mask, run.settings.prompt, scene.guide, fixed)
    return replace(condition, image=first_frame(clip, edited=True))


def _latents(run: Run, condition: str, encoded: Encoded, loras: dict[str, Path], part: int) -> tuple[Tensor, bool]:
    """The latents of a segment, sampled now or found, and whether they were found."""
    sampling = run.settings.sampling()
    stems, extras = [path.stem for path in loras.values()], run.extra_keys()
    key = run.key(stems, sampling.model_dump(), *([extras] if extras else []), condition)
    path = run.folder / "cache" / f"latents-{key}.safetensors"
    steps = path.with_suffix("")
    kept = try_load_tensors(path, ("latents",))
    if kept is None:
        guided = run.job.card.guided(sampling.guidance)
        negative = run.family.embed_prompt("", run.device) if guided else None
        with run.phase("sample", part, _parts(run)) as on_step:
            look = run.previews.sampled if run.previews is not None and part == 0 else None
            latents = together(
                partial(sample, extras=run.job.extras), run.family, encoded, negative, sampling, loras, run.device,
                steps, on_step=on_step, on_estimate=look,
            )  # fmt: skip
        save_tensors(path, {"latents": latents})
    shutil.rmtree(steps, ignore_errors=True)
    return (latents, False) if kept is None else (kept["latents"], True)


def _decoded(run: Run, clip: TargetClip, latents: Tensor, frames: int) -> Frames:
    """The frames of latents at the window's size, so many of them."""
    pixels = run.family.decode(latents, run.device)
    return from_working(pixels[:frames], clip.target.window.size)


# ---- from segment to segment -----------------------------------------------------------------------------------------


def _as_seen(run: Run, clip: TargetClip, segment: Segment, made: Frames) -> Frames:
    """What was made as it will be seen: inside the mask, over what lies below."""
    if not len(made):
        return made
    known = replace(segment, stop=segment.start + len(made))
    alpha = feather(clip.mask(known.start, known.stop), run.settings.feather_px)
    return composite(clip.below.span(known.start, known.stop), made, alpha)


def _faded(before: Frames, after: Frames, given: int) -> Frames:
    """The overlap of two segments: the given frames as they were, then one fades into the other."""
    share = np.clip((np.arange(len(before)) - given + 1) / (len(before) - given + 1), 0, 1)
    return composite(before, after, np.broadcast_to(share[:, None, None], before.shape[:3]).astype(np.float32))
