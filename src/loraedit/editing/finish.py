"""The result: laid over the source's own frames, one at a time, and written."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from loraedit.editing.pieces import discard_pieces, exact
from loraedit.editing.run import Run
from loraedit.runs.finished import Finished, keep_frames, write_finished
from loraedit.runs.kept import Kept, in_memory
from loraedit.runs.pictures import contact_sheet, side_by_side
from loraedit.types import Footage, OnStep, Stored
from loraedit.video import to_rgb, write_footage

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

    paths["frames"] = keep_frames(run.folder, "frames", told(exact(run), 0), job.source)
    discard_pieces(run.folder)
    kept = Kept.of(paths["frames"], job.source)
    _write_pictures(run, kept, lambda frames: told(frames, 1))
    if job.out is not None:
        paths["out"] = job.out
        run.result.notes += write_footage(job.out, told(kept.exact(), 2), job.source, run.settings.codec)
    loras, losses = [path.name for name, path in paths.items() if name.startswith("lora")], run.result.losses
    about = job.edit_mask, job.edited_first, losses, run.provenance(), loras
    finished = Finished(job.source, kept, *about, job.references, job.objects)
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
