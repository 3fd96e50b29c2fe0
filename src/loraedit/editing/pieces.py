"""Pieces: the generated windows of all frames, kept on disk until they are composited on the source."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch

from loraedit.editing.context import EditContext
from loraedit.editing.windows import ReadFrames
from loraedit.job.prepare import Job
from loraedit.job.targets import EditTarget
from loraedit.job.window import Window
from loraedit.masks.compositing import lay_over
from loraedit.masks.shaping import feather
from loraedit.masks.tube import MaskTube
from loraedit.storage.files import load_tensors, save_tensors
from loraedit.types import Frames, Image, Stored, Weights

__all__ = ["composited", "composited_rgb_below", "discard_pieces", "first_frame_with", "keep_pieces"]


def keep_pieces(folder: Path, target: int, start: int, frames: Frames) -> None:
    """Writes generated frames of an edit target.

    Args:
        folder: the run folder.
        target: index of the target.
        start: the clip's index of the first frame.
        frames: the window's part of the frames, uint8 ``[F, h, w, 3]``.
    """
    path = _folder(folder) / str(target) / f"{start:06d}.safetensors"
    save_tensors(path, {"frames": torch.from_numpy(np.ascontiguousarray(frames))})


def discard_pieces(folder: Path) -> None:
    """Deletes all pieces. They are as large as the clip, and decoding the cached latents again is quick."""
    shutil.rmtree(_folder(folder), ignore_errors=True)


def composited(context: EditContext) -> Iterator[Stored]:
    """Yields the result: the source's frames as they are stored, with all targets composited on them in order."""
    return _composited(context, context.job.targets, context.job.source.exact(), 0)


def composited_rgb_below(context: EditContext, target: int) -> ReadFrames:
    """Returns a reader of the clip as 8-bit RGB with only the targets before this one composited on it."""
    return partial(_composited_rgb, context, context.job.targets[:target])


def first_frame_with(job: Job, pieces: Sequence[Image]) -> Image:
    """Returns the clip's first frame as 8-bit RGB with the first targets' first frames composited on it.

    Args:
        job: the job.
        pieces: the first frames that are generated for these targets, uint8 ``[h, w, 3]``.
    """
    frames: Iterator[Stored] = job.source.rgb(0, 1)
    for target, piece in zip(job.targets, pieces, strict=False):
        frames = _with_target(frames, target, iter([piece]), 0, job.feather_px)
    return next(frames)


def _composited_rgb(
    context: EditContext, targets: Sequence[EditTarget], start: int, stop: int | None
) -> Iterator[Image]:
    return _composited(context, targets, context.job.source.rgb(start, stop), start)


def _composited(
    context: EditContext, targets: Sequence[EditTarget], frames: Iterator[Stored], start: int
) -> Iterator[Stored]:
    """Yields consecutive frames from index ``start`` on with the targets composited on them."""
    for number, target in enumerate(targets):
        pieces = _pieces(context.folder, number, start)
        frames = _with_target(frames, target, pieces, start, context.job.feather_px)
    return frames


def _with_target(
    below: Iterator[Stored], target: EditTarget, pieces: Iterator[Image], start: int, feather_px: float
) -> Iterator[Stored]:
    """Yields frames with the pieces of a target composited on them inside its mask."""
    for index, stored in enumerate(below, start):
        piece, alpha = next(pieces), _alpha(target.mask, index, target.window, feather_px)
        yield stored if alpha is None else lay_over(stored, piece, alpha, target.window.at(index))


def _alpha(mask: MaskTube, index: int, window: Window, feather_px: float) -> Weights | None:
    """Returns the opacity of a piece in the window of a frame, ``[h, w]``; None if the mask is empty there.

    The mask is feathered inside its box and one pixel around it. No pixel farther out can be nearer to the mask's edge.
    """
    box = mask.box(index)
    if box is None:
        return None
    alpha = np.zeros((mask.size.height, mask.size.width), np.float32)
    near = slice(max(box[0] - 1, 0), box[2] + 1), slice(max(box[1] - 1, 0), box[3] + 1)
    alpha[near] = feather(mask[index][near][None], feather_px)[0]
    return alpha[window.at(index)]


def _folder(folder: Path) -> Path:
    return folder / "cache" / "pieces"


def _pieces(folder: Path, target: int, start: int) -> Iterator[Image]:
    """Yields the pieces of a target from index ``start`` on, uint8 ``[h, w, 3]``."""
    paths = sorted((_folder(folder) / str(target)).glob("*.safetensors"))
    for path in paths:
        begin, following = int(path.stem), [int(other.stem) for other in paths if other > path]
        if not following or following[0] > start:
            yield from load_tensors(path)[0]["frames"].numpy()[max(start - begin, 0) :]
