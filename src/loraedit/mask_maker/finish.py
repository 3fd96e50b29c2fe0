"""What is done to a mask after tracking: its margin and shape, its outline, and its border in the file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from loraedit.errors import InputError
from loraedit.masks.shaping import dilate
from loraedit.settings import DEFAULT_MARGIN, MAX_MARGIN
from loraedit.tracking import LooseMaskOptions, Planes, filled, steady
from loraedit.types import Plane

__all__ = ["Finish", "Shape", "check_finish", "finished", "loose_mask_options"]

Shape = Literal["box", "hull", "outline"]
SHAPES: tuple[Shape, ...] = get_args(Shape)
MAX_PX = 1000.0
MAX_SMOOTH = 50


@dataclass(frozen=True)
class Finish:
    """How a tracked mask is finished.

    Attributes:
        tight: keep the object's own outline instead of making a loose mask around it.
        shape: shape of a loose mask: boxes, hulls, or the outline, each with the margin.
        margin: margin of a loose mask, each side, as a share of its width and height; None is the default.
        dilate_px: number of pixels to grow the mask by.
        smooth: number of frames before and after that the outline is averaged over.
        fill_holes: fill holes inside the mask.
        feather_px: half the width of a soft border in the file; thresholded at half, it is the same mask.
        overrides: masks that replace the tracked ones, by frame index.
    """

    tight: bool = False
    shape: str = "box"
    margin: float | None = None
    dilate_px: float = 0.0
    smooth: int = 0
    fill_holes: bool = False
    feather_px: float = 0.0
    overrides: Mapping[int, Path] = field(default_factory=dict)


def check_finish(finish: Finish) -> None:
    """Checks the values before the clip is read.

    Raises:
        InputError: a value is out of its range, or two contradict each other.
    """
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


def loose_mask_options(finish: Finish) -> LooseMaskOptions:
    """Returns margin and shape of a loose mask."""
    return LooseMaskOptions(DEFAULT_MARGIN if finish.margin is None else finish.margin, _shape(finish.shape))


def finished(planes: Planes, index: int, finish: Finish) -> Plane:
    """Returns the mask of a frame, smoothed, filled and grown, bool ``[H, W]``."""
    first = max(index - finish.smooth, 0)
    plane = steady(planes[first : index + finish.smooth + 1], index - first) if finish.smooth else planes[index]
    plane = filled(plane) if finish.fill_holes else plane
    return dilate(plane[None], finish.dilate_px)[0] if finish.dilate_px else plane


def _shape(name: str) -> Shape:
    for shape in SHAPES:
        if name == shape:
            return shape
    raise InputError(f"A mask cannot have the shape '{name}'. Expected {', '.join(SHAPES)}.")
