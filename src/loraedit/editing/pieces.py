"""The windows' parts of the frames as they were made, on disk until the result is written, and laid over the source."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch

from loraedit.editing.run import Run
from loraedit.editing.windows import ReadFrames
from loraedit.job.targets import EditTarget
from loraedit.job.window import Window
from loraedit.masks.compositing import lay_over
from loraedit.masks.shaping import feather
from loraedit.masks.tube import MaskTube
from loraedit.storage.files import load_tensors, save_tensors
from loraedit.types import Frames, Image, Stored, Weights

__all__ = ["discard_pieces", "exact", "keep_pieces", "rgb_up_to"]


def keep_pieces(folder: Path, target: int, start: int, frames: Frames) -> None:
    """Keep what was made of a target.

    Args:
        folder: the run folder.
        target: which one, from 0.
        start: the clip's frame that is the first of ``frames``, which are uint8 ``[F, h, w, 3]``.
    """
    path = _folder(folder) / str(target) / f"{start:06d}.safetensors"
    save_tensors(path, {"frames": torch.from_numpy(np.ascontiguousarray(frames))})


def discard_pieces(folder: Path) -> None:
    """They are as large as the clip, and quickly decoded again."""
    shutil.rmtree(_folder(folder), ignore_errors=True)


def exact(run: Run) -> Iterator[Stored]:
    """The result: the source's frames as they are stored, all targets laid over them in their order."""
    return _laid(run, run.job.targets, run.job.source.exact(), 0)


def rgb_up_to(run: Run, target: int) -> ReadFrames:
    """The same as people and models see it, of the targets before one of them."""
    return partial(_rgb, run, run.job.targets[:target])


def _rgb(run: Run, targets: Sequence[EditTarget], start: int, stop: int | None) -> Iterator[Image]:
    return _laid(run, targets, run.job.source.rgb(start, stop), start)


def _laid(run: Run, targets: Sequence[EditTarget], frames: Iterator[Stored], start: int) -> Iterator[Stored]:
    """Frames that follow each other from ``start`` on, with targets laid over them."""
    for number, target in enumerate(targets):
        frames = _over(frames, target, _pieces(run.folder, number, start), start, run.settings.feather_px)
    return frames


def _over(
    below: Iterator[Stored], target: EditTarget, pieces: Iterator[Image], start: int, feather_px: float
) -> Iterator[Stored]:
    """Frames with the generated ones over them inside a target's mask."""
    for index, stored in enumerate(below, start):
        piece, alpha = next(pieces), _alpha(target.mask, index, target.window, feather_px)
        yield stored if alpha is None else lay_over(stored, piece, alpha, target.window.at(index))


def _alpha(mask: MaskTube, index: int, window: Window, feather_px: float) -> Weights | None:
    """How much of the generated pixels is seen in the window of a frame, ``[h, w]``; None if nothing is.

    The mask is softened within its box and a pixel round it: the nearest pixel outside the mask is never farther.
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
    """The window's part of all frames from ``start`` on in order, uint8 ``[h, w, 3]``."""
    paths = sorted((_folder(folder) / str(target)).glob("*.safetensors"))
    for path in paths:
        begin, following = int(path.stem), [int(other.stem) for other in paths if other > path]
        if not following or following[0] > start:
            yield from load_tensors(path)[0]["frames"].numpy()[max(start - begin, 0) :]
