"""Writes the result of an edit: frames, pictures, the output and the record of the finished run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from loraedit.editing.context import EditContext
from loraedit.editing.pieces import composited, discard_pieces
from loraedit.runs.finished import Finished, keep_frames, write_finished
from loraedit.runs.kept import Kept
from loraedit.runs.pictures import contact_sheet, side_by_side
from loraedit.types import Footage, OnStep, Stored
from loraedit.video import to_rgb, write_footage

__all__ = ["FinishedFiles", "finish"]


@dataclass(frozen=True)
class FinishedFiles:
    """The files of a finished edit.

    Attributes:
        clip: the edited clip, read on demand from ``frames``.
        frames: the folder of lossless PNGs.
        sheet: the contact sheet.
        side_by_side: source and result next to each other.
        outside_exact: True if every pixel outside the mask equals the source's.
        notes: a sentence for each thing of the source that the output format cannot store.
    """

    clip: Footage
    frames: Path
    sheet: Path
    side_by_side: Path
    outside_exact: bool
    notes: list[str]


@dataclass
class _WriteProgress:
    """Counts frames over several passes through the clip."""

    frames: int
    passes: int
    on_step: OnStep
    done: int = field(default=0)

    def counted(self, frames: Iterator[Stored]) -> Iterator[Stored]:
        """Passes frames on and reports each."""
        for frame in frames:
            yield frame
            self.done += 1
            self.on_step(self.done, self.passes * self.frames)


def finish(context: EditContext, losses: Sequence[float], loras: Sequence[Path], on_step: OnStep) -> FinishedFiles:
    """Composites the pieces on the source, and writes the lossless frames first and the record of the run last.

    Args:
        context: the edit.
        losses: the training loss by step, for the record.
        loras: the LoRA files, for the record.
        on_step: called with (frames written, frames to write).
    """
    job, folder = context.job, context.folder
    progress = _WriteProgress(len(job.source), 3 if job.out is None else 4, on_step)
    frames = keep_frames(folder, "frames", progress.counted(composited(context)), job.source)
    discard_pieces(folder)
    clip, notes = Kept.of(frames, job.source), list[str]()
    sheet = _write_sheet(context, clip)
    video, outside_exact = _write_side_by_side(context, clip, progress)
    if job.out is not None:
        notes = write_footage(job.out, progress.counted(clip.exact()), job.source, context.settings.codec)
    record = Finished(
        job.source, clip, job.edit_mask, job.edited_first, list(losses), context.provenance(),
        [path.name for path in loras], job.references, job.objects,
    )  # fmt: skip
    write_finished(folder, record, progress.counted)
    return FinishedFiles(clip, frames, sheet, video, outside_exact, notes)


def _write_sheet(context: EditContext, result: Footage) -> Path:
    """Writes the contact sheet and returns its path."""
    path, settings = context.folder / "sheet.png", context.settings
    title = f"{settings.lora} LoRA, {settings.model}"
    contact_sheet(context.job.source, result, context.job.edit_mask, title=title).save(path)
    return path


def _write_side_by_side(context: EditContext, result: Footage, progress: _WriteProgress) -> tuple[Path, bool]:
    """Writes source and result next to each other.

    Returns:
        The path, and True if both are equal outside the mask in every frame.
    """
    job, path = context.job, context.folder / "side_by_side.mp4"
    equal: list[bool] = []

    def pairs() -> Iterator[Stored]:
        for source, edited, inside in zip(job.source.exact(), result.exact(), job.edit_mask, strict=True):
            equal.append(np.array_equal(source[~inside], edited[~inside]))
            yield side_by_side(to_rgb(source), to_rgb(edited))

    write_footage(path, progress.counted(pairs()), job.source.fps)
    return path, all(equal)
