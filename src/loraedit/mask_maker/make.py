"""The workflow of ``loraedit mask``: from an edit, or from hints, to a mask on disk and its preview."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from loraedit.errors import InputError
from loraedit.job.edits import read_edit
from loraedit.job.inputs import read_source
from loraedit.mask_maker.finish import Finish, check_finish, finished, loose_mask_options
from loraedit.mask_maker.hints import MaskHints, check_hints, hints_by_frame, mask_of_frame
from loraedit.masks.tube import MaskTube
from loraedit.runs.pictures import overlay_mask
from loraedit.storage.paths import check_apart, unusable_paths_refused
from loraedit.tracking import (
    Hints,
    Planes,
    Tracker,
    View,
    changed_region,
    loosen_mask,
    name_of_frame,
    open_tracker,
    seed_from_hints,
    soft_border,
    track_loose_mask,
)
from loraedit.types import OnStep, Plane, no_step
from loraedit.video import check_writable, write_footage

__all__ = ["WrittenMask", "make_mask", "preview_path"]

_LOSSY = {".mp4", ".mov"}


@dataclass(frozen=True)
class WrittenMask:
    """A mask on disk.

    Attributes:
        mask: one plane for each frame, True = edit.
        out: a folder of PNGs or an FFV1 video, white = edit.
        preview: a video of the clip with the mask laid over it.
    """

    mask: MaskTube
    out: Path
    preview: Path


@unusable_paths_refused()
def make_mask(
    source: Path,
    hints: MaskHints,
    out: Path,
    finish: Finish | None = None,
    tracker: str = "embedded",
    tracker_model: Path | None = None,
    device: str | None = None,
    on_step: OnStep = no_step,
) -> WrittenMask:
    """Makes a mask and writes it.

    Args:
        source: a video, or a folder of frames.
        hints: where the mask is to be.
        out: a folder for PNGs, or a name ending in ``.mkv``.
        finish: what is done to the mask after tracking; None means ``Finish()``.
        tracker: one of ``tracking.TRACKERS``.
        tracker_model: folder of the tracker's weights.
        device: device of these weights; None takes the best one.
        on_step: called with (frames done, frames in all).

    Raises:
        InputError: something cannot be read, used or written; nothing was written.
        ModelError: the tracker's weights cannot be loaded.
    """
    finish = finish or Finish()
    check_hints(hints)
    check_finish(finish)
    preview = _check_out(out, [source, *hints.edits.values(), *hints.seed_masks.values(), *finish.overrides.values()])
    follower = open_tracker(tracker, tracker_model, hints.text, device)
    clip = read_source(source)
    view, shown = View(clip), hints_by_frame(clip, hints)
    overrides = {index: mask_of_frame(clip, index, path) for index, path in finish.overrides.items()}
    planes = _track(view, hints, shown, finish, follower, on_step)
    frames = range(len(clip))
    mask = MaskTube(overrides[index] if index in overrides else finished(planes, index, finish) for index in frames)
    if mask.all():
        raise InputError("The mask would be white everywhere, so nothing would be preserved. Grow it less.")
    tinted = (overlay_mask(frame, plane) for frame, plane in zip(clip.rgb(), mask, strict=True))
    write_footage(preview, tinted, clip.fps)
    soft = (soft_border(plane, finish.feather_px) for plane in mask)
    write_footage(out, (np.repeat(plane[..., None], 3, -1) for plane in soft), clip.fps)
    return WrittenMask(mask, out, preview)


def preview_path(out: Path) -> Path:
    """Returns the place of a mask's preview."""
    return out.with_name(f"{out.stem if out.suffix.lower() == '.mkv' else out.name}-preview.mp4")


def _track(
    view: View, hints: MaskHints, shown: Mapping[int, Hints], finish: Finish, tracker: Tracker, on_step: OnStep
) -> Planes:
    """Returns the object's mask in every frame, tight or loose."""
    if not hints.edits:
        tight = tracker.track(view, shown, on_step)
        return tight if finish.tight else loosen_mask(view, tight, loose_mask_options(finish))
    regions = _regions(view, hints, shown)
    if finish.tight:
        return tracker.track(view, {index: Hints(mask=region) for index, region in regions.items()}, on_step)
    return track_loose_mask(view, regions, loose_mask_options(finish), tracker, on_step)


def _regions(view: View, hints: MaskHints, shown: Mapping[int, Hints]) -> dict[int, Plane]:
    """Returns what is edited or shown by hints, by frame index: bool ``[H, W]``."""
    size = view.source.size
    regions = {}
    for index, path in hints.edits.items():
        what = name_of_frame(index)
        regions[index] = changed_region(view.frame(index), read_edit(path, size, False, what), what)
    for index, also in shown.items():
        if not also.shows:
            raise InputError(
                f"Frame {index} has points off the object, but none on it. Add --point {index}:x,y, or a --box."
            )
        seed = seed_from_hints(view.frame(index), also)
        regions[index] = regions[index] | seed if index in regions else seed
    return regions


def _check_out(out: Path, inputs: Sequence[Path]) -> Path:
    """Checks that mask and preview can be written and would overwrite no input.

    Returns:
        The place of the preview.
    """
    if not out.name:
        raise InputError("The output has no name. Give --out a folder, or a name ending in .mkv.")
    if out.suffix.lower() in _LOSSY:
        raise InputError(f"A mask is written without loss, not as {out.suffix}. Give --out a folder or an .mkv.")
    preview = preview_path(out)
    for written in (out, preview):
        for read in inputs:
            check_apart(read, written, exactly=False)
        check_writable(written)
    return preview
