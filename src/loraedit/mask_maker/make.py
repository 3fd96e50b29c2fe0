"""The workflow of ``loraedit mask``: from an edit, or from what a user points at, to a mask on disk and its preview."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from loraedit.errors import InputError, ShapeError
from loraedit.job.edits import read_edit
from loraedit.job.inputs import read_source
from loraedit.masks.reading import read_mask
from loraedit.masks.shaping import dilate
from loraedit.masks.tube import MaskTube
from loraedit.runs.pictures import overlay_mask
from loraedit.settings import MAX_MARGIN
from loraedit.storage.paths import check_apart, unusable_paths_refused
from loraedit.tracking import (
    Hints,
    Loose,
    Planes,
    Stroke,
    Tracker,
    View,
    changed_region,
    filled,
    loose_tube,
    loosened,
    name_of_frame,
    open_tracker,
    seed_from_hints,
    soft_border,
    steady,
)
from loraedit.types import Footage, OnStep, Plane, Size, no_step
from loraedit.video import check_writable, write_footage

__all__ = [
    "Finish",
    "Made",
    "MaskHints",
    "Shape",
    "make_mask",
    "parse_box",
    "parse_point",
    "parse_stroke",
    "preview_path",
]

Shape = Literal["box", "hull", "outline"]
_LOSSY = {".mp4", ".mov"}
MAX_PX = 1000.0
MAX_SMOOTH = 50


@dataclass(frozen=True)
class MaskHints:
    """What says where the mask is to be; frames are counted from 0.

    Attributes:
        edits: edited frames by frame index; what they change is masked.
        points: (frame, x, y, whether it is on the object).
        boxes: (frame, x0, y0, x1, y1), round the object; x1 and y1 exclusive.
        strokes: (frame, x and y from point to point, whether it is on the object).
        seed_masks: the object in single frames, white, by frame index.
        text: the object in words.
    """

    edits: Mapping[int, Path] = field(default_factory=dict)
    points: Sequence[tuple[int, int, int, bool]] = ()
    boxes: Sequence[tuple[int, int, int, int, int]] = ()
    strokes: Sequence[tuple[int, Stroke, bool]] = ()
    seed_masks: Mapping[int, Path] = field(default_factory=dict)
    text: str | None = None


@dataclass(frozen=True)
class Finish:
    """What is done to a mask once the object is followed.

    Attributes:
        tight: the object's own outline instead of a loose mask round it.
        shape: of a loose mask: boxes, hulls, or the outline, each with the margin.
        margin: of a loose mask, added on each side as a share of its width and height; by default 0.15.
        dilate_px: grown by so many pixels.
        smooth: the outline is averaged over so many frames before and after.
        fill_holes: nothing is left out inside.
        feather_px: half the width of a soft border in the file; read at half, it is the same mask.
        overrides: masks that take the place of what was found, by frame index.
    """

    tight: bool = False
    shape: str = "box"
    margin: float | None = None
    dilate_px: float = 0.0
    smooth: int = 0
    fill_holes: bool = False
    feather_px: float = 0.0
    overrides: Mapping[int, Path] = field(default_factory=dict)


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
    finish: Finish | None = None,
    tracker: str = "embedded",
    tracker_model: Path | None = None,
    device: str | None = None,
    on_step: OnStep = no_step,
) -> Made:
    """Make a mask and write it.

    Args:
        source: a video, or a folder of frames.
        hints: where the mask is to be.
        out: a folder for PNGs, or a name ending in ``.mkv``.
        finish: what is done to it then; None means ``Finish()``.
        tracker: what follows the object, one of ``tracking.TRACKERS``.
        tracker_model: the folder of its weights.
        device: where they run; None takes the best one.
        on_step: told (frames done, frames in all).

    Raises:
        InputError: something cannot be read, used or written; nothing was written.
        ModelError: the tracker's weights cannot be loaded.
    """
    finish = finish or Finish()
    _check_asked(hints, finish)
    inputs = [source, *hints.edits.values(), *hints.seed_masks.values(), *finish.overrides.values()]
    preview = _check_out(out, inputs)
    follower = open_tracker(tracker, tracker_model, hints.text, device)
    clip = read_source(source)
    view = View(clip)
    shown = _shown(clip, hints)
    overrides = {index: _mask_of(clip, index, path) for index, path in finish.overrides.items()}
    planes = _followed(view, hints, shown, finish, follower, on_step)
    frames = range(len(clip))
    mask = MaskTube(overrides[k] if k in overrides else _finished(planes, k, finish) for k in frames)
    if mask.all():
        raise InputError("The mask would be white everywhere, so nothing would be preserved. Grow it less.")
    tinted = (overlay_mask(frame, plane) for frame, plane in zip(clip.rgb(), mask, strict=True))
    write_footage(preview, tinted, clip.fps)
    soft = (soft_border(plane, finish.feather_px) for plane in mask)
    write_footage(out, (np.repeat(plane[..., None], 3, -1) for plane in soft), clip.fps)
    return Made(mask, out, preview)


def _followed(
    view: View, hints: MaskHints, shown: Mapping[int, Hints], finish: Finish, tracker: Tracker, on_step: OnStep
) -> Planes:
    """The object in every frame, tight or loose."""
    loose = Loose(Loose().margin if finish.margin is None else finish.margin, _shape(finish.shape))
    if not hints.edits:
        tight = tracker.track(view, shown, on_step)
        return tight if finish.tight else loosened(view, tight, loose)
    regions = _regions(view, hints, shown)
    if finish.tight:
        return tracker.track(view, {index: Hints(mask=region) for index, region in regions.items()}, on_step)
    return loose_tube(view, regions, loose, tracker, on_step)


def _finished(planes: Planes, index: int, finish: Finish) -> Plane:
    """The mask of a frame with all that is done to it."""
    first = max(index - finish.smooth, 0)
    plane = steady(planes[first : index + finish.smooth + 1], index - first) if finish.smooth else planes[index]
    plane = filled(plane) if finish.fill_holes else plane
    return dilate(plane[None], finish.dilate_px)[0] if finish.dilate_px else plane


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


def parse_stroke(text: str) -> tuple[int, Stroke, bool]:
    """``K:x,y,x,y,...`` or the same with ``:out`` to frame, points and whether it is on the object.

    Raises:
        InputError: it is not of that form.
    """
    match = re.fullmatch(r"(\d{1,9}):(\d{1,9},\d{1,9}(?:,\d{1,9},\d{1,9})+)(:out)?", text.strip())
    if match is None:
        raise InputError(
            f"Stroke '{text}' is not of the form K:x,y,x,y,... or the same with :out, K being a frame index from 0."
        )
    numbers = [int(number) for number in match[2].split(",")]
    return int(match[1]), tuple(zip(numbers[::2], numbers[1::2], strict=True)), match[3] is None


def preview_path(out: Path) -> Path:
    """Where the preview of a mask goes."""
    return out.with_name(f"{out.stem if out.suffix.lower() == '.mkv' else out.name}-preview.mp4")


def _check_asked(hints: MaskHints, finish: Finish) -> None:
    pointed = hints.points or hints.boxes or hints.strokes or hints.seed_masks
    if not (hints.edits or pointed or hints.text is not None):
        raise InputError(
            "Nothing says what to mask. Give --from-edit an edited first frame, or show the thing with --point, "
            "--stroke, --box or --seed-mask."
        )
    if hints.text is not None and (hints.edits or not hints.text.strip()):
        raise InputError("Words and an edit do not go together, nor are no words enough. Give --text or --from-edit.")
    margin = finish.margin
    if finish.tight and (margin is not None or finish.shape != "box"):
        raise InputError("A tight mask has no margin and no other shape. Leave out --tight, or --margin and --shape.")
    if margin is not None and not (math.isfinite(margin) and 0 <= margin <= MAX_MARGIN):
        raise InputError(f"A mask cannot have a margin of {margin}. Expected 0 to {MAX_MARGIN:g}, such as 0.15.")
    _shape(finish.shape)
    for name, value, most in (
        ("--dilate-px", finish.dilate_px, MAX_PX),
        ("--feather-px", finish.feather_px, MAX_PX),
        ("--smooth", finish.smooth, MAX_SMOOTH),
    ):
        if not (math.isfinite(value) and 0 <= value <= most):
            raise InputError(f"{name} {value} cannot be used. Expected 0 to {most:g}.")


def _shape(name: str) -> Shape:
    for shape in get_args(Shape):
        if name == shape:
            return shape  # type: ignore[no-any-return]
    raise InputError(f"A mask cannot have the shape '{name}'. Expected {', '.join(get_args(Shape))}.")


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


def _regions(view: View, hints: MaskHints, shown: Mapping[int, Hints]) -> dict[int, Plane]:
    """What is edited, or shown besides, by frame index: bool ``[H, W]``."""
    size = view.source.size
    regions = {}
    for index, path in hints.edits.items():
        what = name_of_frame(index)
        regions[index] = changed_region(view.frame(index), read_edit(path, size, False, what), what)
    for index, also in shown.items():
        if not also.shows:
            raise InputError(
                f"Frame {index} has points to leave out, but none on the object. Add --point {index}:x,y, or a --box."
            )
        seed = seed_from_hints(view.frame(index), also)
        regions[index] = regions[index] | seed if index in regions else seed
    return regions


def _shown(clip: Footage, hints: MaskHints) -> dict[int, Hints]:
    """What is shown, by frame index; all of it within the clip."""
    for index in (*hints.edits, *hints.seed_masks):
        _check_frame(index, clip)
    for index, x, y, _ in hints.points:
        _check_frame(index, clip)
        _check_within(f"The point {x},{y}", x + 1, y + 1, clip.size)
    for index, *box in hints.boxes:
        _check_frame(index, clip)
        _check_within(f"The box {','.join(map(str, box))}", box[2], box[3], clip.size)
    for index, stroke, _ in hints.strokes:
        _check_frame(index, clip)
        _check_within("The stroke", max(x for x, _ in stroke) + 1, max(y for _, y in stroke) + 1, clip.size)
    pointed = {each[0] for each in hints.points} | {each[0] for each in hints.boxes}
    frames = pointed | {each[0] for each in hints.strokes} | set(hints.seed_masks)
    return {frame: _shown_in(clip, frame, hints) for frame in sorted(frames)}


def _shown_in(clip: Footage, frame: int, hints: MaskHints) -> Hints:
    seed = hints.seed_masks.get(frame)
    return Hints(
        points=tuple((x, y) for index, x, y, on in hints.points if index == frame and on),
        points_out=tuple((x, y) for index, x, y, on in hints.points if index == frame and not on),
        boxes=tuple((x0, y0, x1, y1) for index, x0, y0, x1, y1 in hints.boxes if index == frame),
        strokes=tuple(stroke for index, stroke, on in hints.strokes if index == frame and on),
        strokes_out=tuple(stroke for index, stroke, on in hints.strokes if index == frame and not on),
        mask=None if seed is None else _mask_of(clip, frame, seed),
    )


def _mask_of(clip: Footage, index: int, path: Path) -> Plane:
    """The mask of one frame."""
    _check_frame(index, clip)
    return np.asarray(read_mask(path, 1, clip.size)[0])


def _check_frame(index: int, clip: Footage) -> None:
    if not 0 <= index < len(clip):
        raise InputError(f"There is no frame {index}. Expected 0 to {len(clip) - 1}; frames are counted from 0.")


def _check_within(what: str, right: int, bottom: int, size: Size) -> None:
    if right > size.width or bottom > size.height:
        raise ShapeError(f"{what} leaves the frame, which is {size}. x runs from 0 to the right, y from 0 down.")
