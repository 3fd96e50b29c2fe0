"""From what the user gave to what the workflow takes: read, checked against each other, and refused early.

Nothing here needs torch, so a mistake is answered before anything heavy loads.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loraedit.errors import InputError
from loraedit.families.card import ModelCard, read_card, resolve_model
from loraedit.job.edits import (
    EditObject,
    ImageLike,
    check_objects,
    joint_prompt,
    read_edit,
    read_object,
    union,
)
from loraedit.job.segments import Segment, split
from loraedit.job.targets import EditTarget, edit_targets
from loraedit.job.window import choose_window
from loraedit.lora.extra import ExtraLora, check_extras, parse_extra, settle_distilled, unused_extras
from loraedit.masks.reading import MaskSpec, read_mask
from loraedit.masks.shaping import loosen
from loraedit.masks.tube import MaskTube
from loraedit.optical_flow.estimators import check_estimator
from loraedit.runs.folder import CLIP_FOLDERS, EDITED_FIRST_FILE, Kept, KeptObject
from loraedit.settings import MAX_MARGIN, EditSettings, ResolvedSettings
from loraedit.storage.files import real
from loraedit.storage.paths import check_apart, unusable_paths_refused
from loraedit.tracking import Loose, mask_from_edit, name_of_frame, open_tracker
from loraedit.types import Clip, Codec, Footage, Image, OnStep, Size, no_step
from loraedit.video import DEFAULT_FPS, check_encodable, check_writable, open_footage
from loraedit.video.scaling import working_size

__all__ = [
    "ClipLike",
    "Job",
    "check_margin",
    "prepare",
    "read_source",
]

ClipLike = str | Path | Clip | Kept | NDArray[Any]


@dataclass(frozen=True)
class Job:
    """One edit, everything read and checked.

    Attributes:
        source: the clip, read on demand.
        edited_first: the user's edit of its first frame, uint8 ``[H, W, 3]``.
        edit_mask: one plane for each frame, True = edit.
        references: further edited frames of everything by frame index, from 0.
        objects: the things that are edited, if they were given one by one, with edited frames of their own.
        settings: resolved settings.
        card: the model.
        targets: what is edited in one go, in the order in which they are laid over each other.
        segments: the stretches of the clip that the model makes at once.
        extras: LoRAs that the user brings along, in their order.
        notes: what the user should know before the work begins, a sentence each.
        out: where the user wants the result, or None.
        run: the run folder, or None for a passing one.
    """

    source: Footage
    edited_first: Image
    edit_mask: MaskTube
    references: dict[int, Image]
    objects: tuple[KeptObject, ...]
    settings: ResolvedSettings
    card: ModelCard
    targets: tuple[EditTarget, ...]
    segments: Sequence[Segment]
    extras: tuple[ExtraLora, ...]
    notes: tuple[str, ...]
    out: Path | None
    run: Path | None

    @property
    def area_px(self) -> int:
        """Frame area to work at, in pixels."""
        return _area_px(self.settings, self.card)


@unusable_paths_refused()
def prepare(
    source: ClipLike,
    first_frame: ImageLike,
    mask: MaskSpec | None,
    references: Mapping[int, ImageLike],
    settings: EditSettings,
    out: Path | None,
    run: Path | None,
    on_mask: OnStep = no_step,
    on_read: OnStep = no_step,
    *,
    card: ModelCard | None = None,
    objects: Sequence[EditObject] = (),
) -> Job:
    """Read and check everything; a mask of None or "auto" is made from the edited frames, or is that of the objects.

    Args:
        objects: things that are edited at once, each with its own mask; their prompts are joined to the prompt.
        on_read: told (frames done, frames in all) while the clip is gone through once.
        on_mask: told (frames done, frames in all) while such a mask is made.
        card: the model's, if it is known already; its weights need not be there.

    Raises:
        InputError: something cannot be read, or does not fit.
        ModelError: the checkpoint is not one that loraedit can edit with.
    """
    _check_device(settings.device)
    _check_captioner(settings)
    check_objects(objects, mask, references)
    automatic = not objects and (mask is None or (isinstance(mask, str) and mask == "auto"))
    _check_tracking(automatic, settings)
    extras = tuple(parse_extra(text) for text in settings.extra_lora)
    given = [source, first_frame, mask, *references.values(), *(extra.path for extra in extras)]
    given += [path for each in objects for path in (each.mask, *each.references.values())]
    run = _check_places(out, run, settings.codec, given)
    clip = read_source(source, on_read)
    if out is not None:
        check_encodable(out, settings.codec, clip.size)
    edited = read_edit(first_frame, clip.size, settings.fit, name_of_frame(0))
    _check_indices([*references, *(index for each in objects for index in each.references)], clip, settings)
    looks = {
        index: read_edit(image, clip.size, settings.fit, name_of_frame(index)) for index, image in references.items()
    }
    grown = settings.mask_boxes, settings.dilate_px
    read = tuple(read_object(each, clip, edited, settings.fit, *grown) for each in objects)
    if read:
        edit_mask = union(read)
    elif mask is None or automatic:
        tracker = open_tracker(settings.tracker, _folder(settings.tracker_model), None, settings.device)
        loose = Loose() if settings.margin is None else Loose(settings.margin)
        edit_mask = loosen(MaskTube(mask_from_edit(clip, {0: edited, **looks}, loose, tracker, on_mask)), *grown)
    else:
        edit_mask = loosen(read_mask(mask, len(clip), clip.size), *grown)
    _check_covered(next(clip.rgb(0, 1)), edited, edit_mask)
    _check_reached(list(references), edit_mask)
    card = card or _read_model(settings)
    notes = [*_footage_notes(clip), *check_extras(extras, card)]
    settled, told = settle_distilled(settings, extras)
    resolved = settled.model_copy(update={"prompt": joint_prompt(settings.prompt, read)}).resolved(card.recipe)
    _check_prior(resolved, card)
    _check_tokens(resolved, card)
    _check_levels(resolved)
    notes += unused_extras(extras, resolved, card)
    chosen = partial(choose_window, crop=resolved.crop, context=resolved.context)
    targets = edit_targets({0: edited, **looks}, read, edit_mask, clip, chosen)
    segments = cut_in_time(len(clip), [each.window.size for each in targets], _area_px(resolved, card), resolved, card)
    about = edited, edit_mask, looks, read
    return Job(clip, *about, resolved, card, targets, segments, extras, (*notes, *told), out, run)


def read_source(source: ClipLike, on_step: OnStep = no_step) -> Footage:
    """A clip; a file is gone through once, and then read on demand.

    Args:
        source: what the user gave.
        on_step: told (frames done, frames in all) while a file is gone through.

    Raises:
        InputError: it cannot be read, or is no clip.
    """
    if isinstance(source, Clip | Kept):
        return source
    if isinstance(source, str | Path):
        return open_footage(Path(source), on_step)
    frames = np.asarray(source)
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or 0 in frames.shape:
        raise InputError(
            f"The source array is {frames.dtype} {list(frames.shape)}. Expected uint8 [F, H, W, 3], F at least 1."
        )
    return Clip(frames, DEFAULT_FPS)


def _footage_notes(clip: Footage) -> list[str]:
    if clip.origin is None or clip.origin.fields == 1:
        return []
    return [
        f"{clip.origin.path.name} is interlaced: a frame holds two moments, but the model makes whole frames. The "
        "result is marked as interlaced too. For a clean edit, deinterlace the clip first (ffmpeg -vf bwdif)."
    ]


def _check_covered(first: Image, edited: Image, edit_mask: MaskTube) -> None:
    """Something has to be changed in frame 1, and where the mask is."""
    changed = (first != edited).any(-1)
    if not changed.any():
        raise InputError("The edited first frame equals the source's first frame. Edit it with an image editor first.")
    if not (changed & edit_mask[0]).any():
        raise InputError(
            "Nothing inside the mask differs between the source's first frame and the edited one. "
            "White must be where the edit is; check that the mask isn't inverted."
        )


def _check_indices(indices: Sequence[Any], clip: Footage, settings: EditSettings) -> None:
    for index in indices:
        if not isinstance(index, int) or not 0 < index < len(clip):
            raise InputError(
                f"There is no frame {index} to take a reference for. Expected 1 to {len(clip) - 1}, counted from 0 "
                "(frame 0 is the edited first frame)."
            )
    if indices and settings.lora != "motion":
        raise InputError(f"References need the motion LoRA, but --lora is {settings.lora}. Leave one of them out.")


def _check_reached(indices: Sequence[int], edit_mask: MaskTube) -> None:
    for index in indices:
        if edit_mask.box(index) is None:
            raise InputError(f"The mask is black in frame {index}, so its reference cannot be used. Choose another.")


def cut_in_time(
    frames: int, seen: Sequence[Size], area_px: int, settings: ResolvedSettings, card: ModelCard
) -> list[Segment]:
    """A clip in segments; neither they nor a frame are longer than the model's position codes reach.

    Args:
        seen: the sizes of the windows.
        area_px: that the model works at.

    Raises:
        InputError: the model cannot take frames of that shape or area.
    """
    longest_px = card.max_positions * card.multiple_px
    for window in seen:
        size = working_size(window, area_px, card.multiple_px)
        if max(size.height, size.width) > longest_px:
            raise InputError(
                f"A frame of {window} is too narrow or too large: at the model's size a side would have "
                f"{max(size.height, size.width)} pixels, and at most {longest_px} can be. Crop or pad the clip."
            )
    reach = (card.max_positions - 1) * card.temporal + 1
    longest = settings.segment_frames
    return split(frames, max(min(longest, reach), card.frame_step + 1), card.frame_step, card.temporal)


def _area_px(settings: ResolvedSettings, card: ModelCard) -> int:
    return round(card.settings.area_px * settings.area)


def _read_model(settings: EditSettings) -> ModelCard:
    """The card of the model that the settings ask for."""
    given = {"transformer": settings.transformer, "transformer_2": settings.transformer_2}
    files = {name: Path(path) for name, path in given.items() if path is not None}
    return read_card(resolve_model(settings.model, settings.download, tuple(files)), files)


def _check_tokens(settings: ResolvedSettings, card: ModelCard) -> None:
    """Nothing is asked for that a model with one timestep a token cannot be shown."""
    if card.mask != "tokens":
        return
    if settings.condition_on_references:
        raise InputError(
            f"'{card.folder}' keeps {card.temporal} frames at a time or none of them, so a single frame cannot be "
            "given whole. Leave --condition-on-references out."
        )
    if settings.carries and settings.strength == 1.0:
        raise InputError(
            f"'{card.folder}' is shown nothing inside the mask, so carried frames can only be what sampling starts "
            "from. Give --strength below 1 (0.8, say), or --fill grey."
        )


def _check_levels(settings: ResolvedSettings) -> None:
    """Some of the noise levels that are trained on are sampled."""
    low, strength = settings.min_noise_level, settings.strength
    if settings.lora != "none" and low >= strength:
        raise InputError(
            f"Training on noise levels above {low:g} teaches nothing that is used, as sampling starts at {strength:g}. "
            "Lower --min-noise-level, or raise --strength."
        )


def _check_prior(settings: ResolvedSettings, card: ModelCard) -> None:
    """A prior that is asked for is there, and fits into the rank."""
    used = settings.prior and settings.lora == "motion"
    if used and not card.prior_rank:
        raise InputError(f"'{card.folder}' brings no prior LoRA to start from. Leave --prior out, or make one.")
    if used and card.prior_rank > settings.rank:
        raise InputError(
            f"The prior LoRA has rank {card.prior_rank}, more than --rank {settings.rank}. "
            "Raise --rank, or add --no-prior."
        )
    if used and settings.lora_targets != "all":
        raise InputError("The prior LoRA is on all linear layers. Leave --lora-targets out, or add --no-prior.")
    if not used and settings.lora != "none" and settings.steps == 0:
        raise InputError("Without a prior a LoRA of 0 steps does nothing. Give --steps at least 1, or --lora none.")


def _folder(path: str | None) -> Path | None:
    return None if path is None else Path(path)


def _check_tracking(automatic: bool, settings: EditSettings) -> None:
    """What says how a mask is made is said of one that is made."""
    if not automatic and (settings.margin is not None or settings.tracker != "embedded" or settings.tracker_model):
        raise InputError(
            "--margin and --tracker are for a mask that is made from the edit. Leave them out, or give --mask auto."
        )
    if automatic:
        open_tracker(settings.tracker, _folder(settings.tracker_model), None, settings.device)
    check_estimator(settings.flow_estimator)


def _check_captioner(settings: EditSettings) -> None:
    if "auto" in (settings.prompt, settings.source_prompt) and settings.captioner is None:
        raise InputError(
            "A prompt of 'auto' needs --captioner: a Florence-2 or Qwen-VL model, as a folder or a Hub id."
        )


def _check_device(device: str | None) -> None:
    if device is not None and not re.fullmatch(r"(cpu|cuda|mps|xpu)(:\d+)?", device):
        raise InputError(f"Device '{device}' is not known. Expected cpu, cuda, cuda:1, mps or xpu.")


def _check_places(out: Path | None, run: Path | None, codec: Codec | None, inputs: Sequence[Any]) -> Path | None:
    """Output and run folder are writable, and in nobody's way; the run folder."""
    if out is not None and not out.name:
        raise InputError("The output has no name. Give --out a file or folder, such as result.mp4.")
    if out is not None and run is None:
        run = out.with_name(f"{out.stem}-run")
    if run is not None and not run.name:
        raise InputError("The run folder has no name. Give --run a folder of its own.")
    if run is not None and run.exists() and not run.is_dir():
        raise InputError(f"The run folder '{run}' is a file. Give --run a folder.")
    if out is not None and run is not None and real(run).is_relative_to(real(out)):
        raise InputError(f"The run folder '{run}' lies in the output '{out}'. Give them different places.")
    written = [*([out] if out else []), *(run / name for name in CLIP_FOLDERS if run)]
    for given in (Path(each) for each in inputs if isinstance(each, str | Path)):
        for path in (*written, *([run / EDITED_FIRST_FILE] if run else []), *([run] if given.is_dir() and run else [])):
            check_apart(given, path, exactly=path == run)
    for path in written:
        check_writable(path, codec if path == out else None)
    return run


def check_margin(margin: float) -> None:
    """A loose mask can have this margin.

    Raises:
        InputError: it cannot.
    """
    if not (math.isfinite(margin) and 0 <= margin <= MAX_MARGIN):
        raise InputError(f"A mask cannot have a margin of {margin}. Expected 0 to {MAX_MARGIN:g}, such as 0.15.")
