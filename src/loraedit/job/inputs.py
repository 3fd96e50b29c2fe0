"""Reads the clip and the edited frames of a request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from loraedit.errors import InputError
from loraedit.job.check import CheckedRequest
from loraedit.job.edits import ImageLike, read_edit, read_object
from loraedit.job.request import ClipLike, EditRequest
from loraedit.runs.kept import Kept, KeptObject
from loraedit.tracking import name_of_frame
from loraedit.types import Clip, Footage, Image, OnStep, Progress, Size, no_step, steps_of
from loraedit.video import DEFAULT_FPS, check_encodable, open_footage

__all__ = ["Inputs", "read_inputs", "read_source"]


@dataclass(frozen=True)
class Inputs:
    """The pictures of a request.

    Attributes:
        source: the clip, read on demand.
        edited_first: the edited first frame, uint8 ``[H, W, 3]``.
        references: edited frames of everything after the first, by frame index, likewise.
        objects: the objects with their masks and references.
    """

    source: Footage
    edited_first: Image
    references: dict[int, Image]
    objects: tuple[KeptObject, ...]

    @property
    def keyframes(self) -> dict[int, Image]:
        """The edited frames of everything by frame index, the first frame among them."""
        return {0: self.edited_first, **self.references}


def read_inputs(checked: CheckedRequest, progress: Progress) -> Inputs:
    """Reads everything but a mask of its own, and checks it against the clip.

    Args:
        progress: called with the phase "read" while the clip is decoded once.

    Raises:
        InputError: something cannot be read, or does not fit the clip.
    """
    request, settings = checked.request, checked.settings
    clip = read_source(request.source, steps_of(progress, "read"))
    if request.out is not None:
        check_encodable(request.out, settings.codec, clip.size)
    _check_indices(request, len(clip))
    first = read_edit(request.first_frame, clip.size, settings.fit, name_of_frame(0))
    references = _read_references(request.references, clip.size, settings.fit)
    objects = tuple(
        read_object(each, clip, first, settings.fit, settings.mask_boxes, settings.dilate_px)
        for each in request.objects
    )
    return Inputs(clip, first, references, objects)


def read_source(source: ClipLike, on_step: OnStep = no_step) -> Footage:
    """Opens a clip; a file is decoded once, and then read on demand.

    Args:
        source: what the user gave.
        on_step: called with (frames done, frames in all) while a file is decoded.

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
    return Clip(frames, DEFAULT_FPS, timed=False)


def _read_references(references: Mapping[int, ImageLike], size: Size, fit: bool) -> dict[int, Image]:
    return {index: read_edit(image, size, fit, name_of_frame(index)) for index, image in references.items()}


def _check_indices(request: EditRequest, frames: int) -> None:
    for index in request.reference_indices():
        if index >= frames:
            raise InputError(
                f"There is no frame {index} to take a reference for. Expected 1 to {frames - 1}, counted from 0."
            )
