"""The workflow of ``loraedit mask``: from an edit, or from what a user points at, to a mask on disk and its preview."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from loraedit.errors import InputError, ShapeError
from loraedit.inputs import check_apart, read_edit, read_source, unusable_paths_refused
from loraedit.mask_tube import MaskTube
from loraedit.masks import read_mask, to_picture
from loraedit.report import overlay_mask
from loraedit.tracking import (
    MARGIN,
    Hints,
    Plane,
    changed_region,
    loose_tube,
    name_of_frame,
    seed_from_hints,
    tight_tube,
)
from loraedit.types import Footage, OnStep, Size, no_step
from loraedit.video import check_writable, write_footage

__all__ = ["Made", "MaskHints", "make_mask", "parse_box", "parse_point", "preview_path"]

_LOSSY = {".mp4", ".mov"}
MAX_MARGIN = 10.0


@dataclass(frozen=True)
class MaskHints:
    """What says where the mask is to be; frames are counted from 0.

    Attributes:
        edits: edited frames by frame index; what they change is masked.
        points: (frame, x, y, whether it is on the object).
        boxes: (frame, x0, y0, x1, y1), round the object; x1 and y1 exclusive.
        seed_masks: the object in single frames, white, by frame index.
    """

    edits: Mapping[int, Path] = field(default_factory=dict)
    points: Sequence[tuple[int, int, int, bool]] = ()
    boxes: Sequence[tuple[int, int, int, int, int]] = ()
    seed_masks: Mapping[int, Path] = field(default_factory=dict)


@dataclass(frozen=True)
class Made:
    """A mask as written.

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
    tight: bool = False,
    margin: float | None = None,
    on_step: OnStep = no_step,
) -> Made:
    """Make a mask and write it.

    Args:
        source: a video, or a folder of frames.
        hints: where the mask is to be.
        out: a folder for PNGs, or a name ending in ``.mkv``.
        tight: the object's own outline instead of a loose mask round it.
        margin: of a loose mask, added on each side as a share of its width and height; by default 0.15.
        on_step: told (frames done, frames in all).

    Raises:
        InputError: something cannot be read, used or written; nothing was written.
    """
    _check_asked(hints, tight, margin)
    preview = _check_out(out, [source, *hints.edits.values(), *hints.seed_masks.values()])
    clip = read_source(source)
    regions = _regions(clip, hints)
    if tight:
        mask = tight_tube(clip, regions, None, on_step)
    else:
        mask = loose_tube(clip, regions, MARGIN if margin is None else margin, None, on_step)
    tinted = (overlay_mask(frame, plane) for frame, plane in zip(clip.rgb(), mask, strict=True))
    write_footage(preview, tinted, clip.fps)
    write_footage(out, (to_picture(plane) for plane in mask), clip.fps)
    return Made(mask, out, preview)


def parse_point(text: str) -> tuple[int, int, int, bool]:
    """``K:x,y`` or ``K:x,y:out`` to frame, x, y and whether it is on the object.

    Raises:
        InputError: it is not of that form.
    """
    match = re.fullmatch(r"(\d{1,9}):(\d{1,9}),(\d{1,9})(:out)?", text.strip())
    if match is None:
        raise InputError(f"Point '{text}' is not of the form K:x,y or K:x,y:out, K being a frame index from 0.")
    return int(match[1]), int(match[2]), int(match[3]), match[4] is None


def parse_box(text: str) -> tuple[int, int, int, int, int]:
    """``K:x0,y0,x1,y1`` to five numbers.

    Raises:
        InputError: it is not of that form, or empty.
    """
    match = re.fullmatch(r"(\d{1,9}):(\d{1,9}),(\d{1,9}),(\d{1,9}),(\d{1,9})", text.strip())
    if match is None:
        raise InputError(f"Box '{text}' is not of the form K:x0,y0,x1,y1, K being a frame index from 0.")
    frame, x0, y0, x1, y1 = (int(number) for number in match.groups())
    if x1 <= x0 or y1 <= y0:
        raise InputError(f"Box '{text}' is empty. Expected x0 < x1 and y0 < y1.")
    return frame, x0, y0, x1, y1


def preview_path(out: Path) -> Path:
    """Where the preview of a mask goes."""
    return out.with_name(f"{out.stem if out.suffix.lower() == '.mkv' else out.name}-preview.mp4")


def _check_asked(hints: MaskHints, tight: bool, margin: float | None) -> None:
    if not (hints.edits or hints.points or hints.boxes or hints.seed_masks):
        raise InputError(
            "Nothing says what to mask. Give --from-edit an edited first frame, or show the thing with --point, --box "
            "or --seed-mask."
        )
    if tight and margin is not None:
        raise InputError("A tight mask has no margin. Leave out --tight or --margin.")
    if margin is not None and not (math.isfinite(margin) and 0 <= margin <= MAX_MARGIN):
        raise InputError(f"A mask cannot have a margin of {margin}. Expected 0 to {MAX_MARGIN:g}, such as {MARGIN}.")


def _check_out(out: Path, inputs: Sequence[Path]) -> Path:
    """Both outputs can be written, and are in nobody's way; the place of the preview."""
    if not out.name:
        raise InputError("The output has no name. Give --out a folder, or a name ending in .mkv.")
    if out.suffix.lower() in _LOSSY:
        raise InputError(f"A mask is written without loss, not as {out.suffix}. Give --out a folder or an .mkv.")
    preview = preview_path(out)
    for written in (out, preview):
        for given in inputs:
            check_apart(given, written, exactly=False)
        check_writable(written)
    return preview


def _regions(clip: Footage, hints: MaskHints) -> dict[int, Plane]:
    """What is known, by frame index: bool ``[H, W]``."""
    regions: dict[int, Plane] = {}
    for index, path in hints.edits.items():
        _check_frame(index, clip)
        what = name_of_frame(index)
        regions[index] = changed_region(next(clip.rgb(index, index + 1)), read_edit(path, clip.size, False, what), what)
    for index, path in hints.seed_masks.items():
        _check_frame(index, clip)
        seed = read_mask(path, 1, clip.size)[0]
        regions[index] = regions.get(index, np.zeros_like(seed)) | seed
    for index, shown in _by_frame(hints, clip).items():
        regions[index] = _shown(clip, index, shown, regions.get(index))
    return regions


def _shown(clip: Footage, index: int, shown: Hints, known: Plane | None) -> Plane:
    """What is known of a frame, with what points and boxes add to it."""
    if shown.points or shown.boxes:
        seed = seed_from_hints(next(clip.rgb(index, index + 1)), shown)
        return seed if known is None else known | seed
    raise InputError(
        f"Frame {index} has points to leave out, but none on the object. Add --point {index}:x,y, or a --box."
    )


def _by_frame(hints: MaskHints, clip: Footage) -> dict[int, Hints]:
    """Points and boxes, sorted by frame, all within the clip."""
    for index, x, y, _ in hints.points:
        _check_frame(index, clip)
        _check_within(f"The point {x},{y}", x + 1, y + 1, clip.size)
    for index, *box in hints.boxes:
        _check_frame(index, clip)
        _check_within(f"The box {','.join(map(str, box))}", box[2], box[3], clip.size)
    frames = sorted({index for index, *_ in [*hints.points, *hints.boxes]})
    return {
        frame: Hints(
            tuple((x, y) for index, x, y, on in hints.points if index == frame and on),
            tuple((x, y) for index, x, y, on in hints.points if index == frame and not on),
            tuple((x0, y0, x1, y1) for index, x0, y0, x1, y1 in hints.boxes if index == frame),
        )
        for frame in frames
    }


def _check_frame(index: int, clip: Footage) -> None:
    if not 0 <= index < len(clip):
        raise InputError(f"There is no frame {index}. Expected 0 to {len(clip) - 1}; frames are counted from 0.")


def _check_within(what: str, right: int, bottom: int, size: Size) -> None:
    if right > size.width or bottom > size.height:
        raise ShapeError(f"{what} leaves the frame, which is {size}. x runs from 0 to the right, y from 0 down.")
