"""Every job read and checked as an edit is before it begins, but nothing made: no mask, no folder."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from loraedit.batch.jobs import BatchJob, folder_of
from loraedit.errors import LoraEditError
from loraedit.job.edits import read_edit
from loraedit.job.prepare import prepare
from loraedit.job.request import EditRequest
from loraedit.runs.folder import Kept
from loraedit.settings import EditSettings, make_settings
from loraedit.tracking.changes import changed_region, name_of_frame
from loraedit.tracking.trackers import open_tracker
from loraedit.types import Footage, OnStep
from loraedit.video import open_footage

__all__ = ["check_jobs"]


def check_jobs(file: str, jobs: Sequence[BatchJob], folder: Path, on_step: OnStep) -> None:
    """Read all that the jobs need, each clip once.

    Args:
        file: what messages call the jobs file.
        folder: the batch's.
        on_step: told (jobs checked, jobs in all).

    Raises:
        LoraEditError: the first job that cannot be done; its own kind.
    """
    for done, job in enumerate(jobs):
        on_step(done, len(jobs))
        try:
            _check(job, folder / folder_of(job.name))
        except LoraEditError as error:
            raise type(error)(f"{file}: job '{job.name}': {error}") from error
    on_step(len(jobs), len(jobs))
    _footage.cache_clear()


@lru_cache(maxsize=4)
def _footage(path: Path) -> Footage:
    return open_footage(path)


def _check(job: BatchJob, folder: Path) -> None:
    """As an edit does; an automatic mask is only begun: what the edited first frame changes."""
    inputs, settings = job.inputs(), make_settings(job.settings)
    clip = _footage(inputs["source"])
    source = Kept(clip, clip.fps, clip.origin)
    if not inputs["objects"] and inputs["mask"] in (None, "auto"):
        edited = read_edit(inputs["first_frame"], clip.size, settings.fit, name_of_frame(0))
        inputs["mask"] = changed_region(next(clip.rgb(0, 1)), edited)
        settings = _with_mask(settings)
    values = {**inputs, "source": source, "settings": settings}
    prepare(EditRequest(**values, out=folder / job.out, run=folder / "run"))


def _with_mask(settings: EditSettings) -> EditSettings:
    """The settings without what says how a mask is made; that is checked."""
    folder = None if settings.tracker_model is None else Path(settings.tracker_model)
    open_tracker(settings.tracker, folder, None, settings.device)
    plain: dict[str, Any] = {"margin": None, "tracker": "embedded", "tracker_model": None}
    return settings.model_copy(update=plain)
