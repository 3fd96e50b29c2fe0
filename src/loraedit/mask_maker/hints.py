"""What the user shows of an object: parsed from text, checked against the clip, and gathered by frame."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from loraedit.errors import InputError, ShapeError
from loraedit.masks.reading import read_mask
from loraedit.tracking import Hints, Stroke
from loraedit.types import Footage, Plane, Size

__all__ = ["MaskHints", "check_hints", "hints_by_frame", "mask_of_frame", "parse_box", "parse_point", "parse_stroke"]


@dataclass(frozen=True)
class MaskHints:
    """Where the mask is to be; frames are counted from 0.

    Attributes:
        edits: edited frames by frame index; their changes are masked.
        points: (frame, x, y, True if it is on the object).
        boxes: (frame, x0, y0, x1, y1) around the object; x1 and y1 exclusive.
        strokes: (frame, x and y from point to point, True if it is on the object).
        seed_masks: masks of the object in single frames, white = object, by frame index.
        text: the object in words.
    """

    edits: Mapping[int, Path] = field(default_factory=dict)
    points: Sequence[tuple[int, int, int, bool]] = ()
    boxes: Sequence[tuple[int, int, int, int, int]] = ()
    strokes: Sequence[tuple[int, Stroke, bool]] = ()
    seed_masks: Mapping[int, Path] = field(default_factory=dict)
    text: str | None = None


# ---- from text -------------------------------------------------------------------------------------------------------


def parse_point(text: str) -> tuple[int, int, int, bool]:
    """Parses ``K:x,y`` or ``K:x,y:out``.

    Returns:
        Frame, x, y, and True if the point is on the object.

    Raises:
        InputError: the text is not of that form.
    """
    match = re.fullmatch(r"(\d{1,9}):(\d{1,9}),(\d{1,9})(:out)?", text.strip())
    if match is None:
        raise InputError(f"Point '{text}' is not of the form K:x,y or K:x,y:out, K being a frame index from 0.")
    return int(match[1]), int(match[2]), int(match[3]), match[4] is None


def parse_box(text: str) -> tuple[int, int, int, int, int]:
    """Parses ``K:x0,y0,x1,y1``.

    Returns:
        Frame, x0, y0, x1 and y1.

    Raises:
        InputError: the text is not of that form, or the box is empty.
    """
    match = re.fullmatch(r"(\d{1,9}):(\d{1,9}),(\d{1,9}),(\d{1,9}),(\d{1,9})", text.strip())
    if match is None:
        raise InputError(f"Box '{text}' is not of the form K:x0,y0,x1,y1, K being a frame index from 0.")
    frame, x0, y0, x1, y1 = (int(number) for number in match.groups())
    if x1 <= x0 or y1 <= y0:
        raise InputError(f"Box '{text}' is empty. Expected x0 < x1 and y0 < y1.")
    return frame, x0, y0, x1, y1


def parse_stroke(text: str) -> tuple[int, Stroke, bool]:
    """Parses ``K:x,y,x,y,...`` or the same with ``:out``.

    Returns:
        Frame, points, and True if the stroke is on the object.

    Raises:
        InputError: the text is not of that form.
    """
    match = re.fullmatch(r"(\d{1,9}):(\d{1,9},\d{1,9}(?:,\d{1,9},\d{1,9})+)(:out)?", text.strip())
    if match is None:
        raise InputError(
            f"Stroke '{text}' is not of the form K:x,y,x,y,... or the same with :out, K being a frame index from 0."
        )
    numbers = [int(number) for number in match[2].split(",")]
    return int(match[1]), tuple(zip(numbers[::2], numbers[1::2], strict=True)), match[3] is None


# ---- checked, and by frame -------------------------------------------------------------------------------------------


def check_hints(hints: MaskHints) -> None:
    """Checks hints before the clip is read.

    Raises:
        InputError: there are none, or they contradict each other.
    """
    pointed = hints.points or hints.boxes or hints.strokes or hints.seed_masks
    if not (hints.edits or pointed or hints.text is not None):
        raise InputError(
            "There is nothing to make a mask from. Give --from-edit an edited first frame, or show the object with "
            "--point, --stroke, --box or --seed-mask."
        )
    if hints.text is not None and (hints.edits or not hints.text.strip()):
        raise InputError("--text needs words, and does not go together with an edit. Give --text or --from-edit.")


def hints_by_frame(clip: Footage, hints: MaskHints) -> dict[int, Hints]:
    """Gathers points, boxes, strokes and seed masks by frame index.

    Raises:
        InputError: a frame does not exist, or a seed mask cannot be read.
        ShapeError: a hint leaves the frame.
    """
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
    pointed = {point[0] for point in hints.points} | {box[0] for box in hints.boxes}
    frames = pointed | {stroke[0] for stroke in hints.strokes} | set(hints.seed_masks)
    return {frame: _hints_of_frame(clip, frame, hints) for frame in sorted(frames)}


def _hints_of_frame(clip: Footage, frame: int, hints: MaskHints) -> Hints:
    seed = hints.seed_masks.get(frame)
    return Hints(
        points=tuple((x, y) for index, x, y, on in hints.points if index == frame and on),
        points_out=tuple((x, y) for index, x, y, on in hints.points if index == frame and not on),
        boxes=tuple((x0, y0, x1, y1) for index, x0, y0, x1, y1 in hints.boxes if index == frame),
        strokes=tuple(stroke for index, stroke, on in hints.strokes if index == frame and on),
        strokes_out=tuple(stroke for index, stroke, on in hints.strokes if index == frame and not on),
        mask=None if seed is None else mask_of_frame(clip, frame, seed),
    )


def mask_of_frame(clip: Footage, index: int, path: Path) -> Plane:
    """Reads the mask of one frame, bool ``[H, W]``.

    Raises:
        InputError: the frame does not exist, or the mask cannot be read.
    """
    _check_frame(index, clip)
    return np.asarray(read_mask(path, 1, clip.size)[0])


def _check_frame(index: int, clip: Footage) -> None:
    if not 0 <= index < len(clip):
        raise InputError(f"There is no frame {index}. Expected 0 to {len(clip) - 1}; frames are counted from 0.")


def _check_within(what: str, right: int, bottom: int, size: Size) -> None:
    if right > size.width or bottom > size.height:
        raise ShapeError(f"{what} leaves the frame, which is {size}. x runs from 0 to the right, y from 0 down.")
