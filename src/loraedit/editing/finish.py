"""The result: laid over the source's own frames, one at a time, and written."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from loraedit.compose import lay_over
from loraedit.editing.run import Run
from loraedit.editing.scenes import discard_pieces, pieces
from loraedit.mask_tube import MaskTube
from loraedit.masks import feather
from loraedit.report import contact_sheet, side_by_side
from loraedit.results import Finished, Kept, in_memory, keep_frames, write_finished
from loraedit.types import Footage, OnStep, Stored, Weights
from loraedit.video import to_rgb, write_footage
from loraedit.window import Window

__all__ = ["finish"]


def finish(run: Run, to_memory: bool, on_step: OnStep) -> None:
    """What is kept without loss first, then what people look at, then the mark of a finished run.

    Args:
        to_memory: read the result into memory.
        on_step: told (frames written, frames in all).
    """
    job, paths, stages = run.job, run.result.paths, 3 if run.job.out is None else 4

    def told(frames: Iterator[Stored], stage: int) -> Iterator[Stored]:
        for done, frame in enumerate(frames, 1):
            yield frame
            on_step(stage * len(job.source) + done, stages * len(job.source))

    paths["frames"] = keep_frames(run.folder, "frames", told(_composited(run), 0), job.source)
    discard_pieces(run.folder)
    kept = Kept.of(paths["frames"], job.source)
    _write_pictures(run, kept, lambda frames: told(frames, 1))
    if job.out is not None:
        paths["out"] = job.out
        run.result.notes += write_footage(job.out, told(kept.exact(), 2), job.source, run.settings.codec)
    loras, losses = [path.name for name, path in paths.items() if name.startswith("lora")], run.result.losses
    references = {index: each.image for index, each in job.references.items()}
    about = job.edit_mask, job.edited_first, losses, run.provenance(), loras
    finished = Finished(job.source, kept, *about, references, job.objects)
    write_finished(run.folder, finished, lambda frames: told(frames, stages - 1))
    run.result.clip = in_memory(kept) if to_memory else kept
    paths["run"] = run.folder


def _write_pictures(run: Run, result: Footage, told: Callable[[Iterator[Stored]], Iterator[Stored]]) -> None:
    """The contact sheet, and source and result next to each other; these are compared outside the mask as they pass."""
    job, paths = run.job, run.result.paths
    paths["sheet"] = run.folder / "sheet.png"
    title = f"{run.settings.lora} LoRA, {run.settings.model}"
    contact_sheet(job.source, result, job.edit_mask, title=title).save(paths["sheet"])
    paths["side_by_side"] = run.folder / "side_by_side.mp4"
    same: list[bool] = []

    def compared() -> Iterator[Stored]:
        for ours, theirs, inside in zip(job.source.exact(), result.exact(), job.edit_mask, strict=True):
            same.append(np.array_equal(ours[~inside], theirs[~inside]))
            yield side_by_side(to_rgb(ours), to_rgb(theirs))

    write_footage(paths["side_by_side"], told(compared()), job.source.fps)
    run.result.outside_exact = all(same)


def _composited(run: Run) -> Iterator[Stored]:
    """The source's frames, and inside the mask the generated ones over them."""
    job = run.job
    both = zip(job.source.exact(), pieces(run.folder), strict=True)
    for index, (stored, piece) in enumerate(both):
        alpha = _alpha(job.edit_mask, index, job.window, run.settings.feather_px)
        yield stored if alpha is None else lay_over(stored, piece, alpha, job.window.at(index))


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
