"""Checks every job of a batch as an edit is checked, without making a mask or a folder."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from loraedit.batch.jobs import BatchJob, folder_of
from loraedit.errors import LoraEditError
from loraedit.job.edits import read_edit
from loraedit.job.prepare import prepare
from loraedit.job.request import EditRequest
from loraedit.runs.kept import Kept
from loraedit.settings import EditSettings, make_settings
from loraedit.tracking.changes import changed_region, name_of_frame
from loraedit.tracking.trackers import open_tracker
from loraedit.types import Footage, OnStep
from loraedit.video import open_footage

__all__ = ["check_jobs"]


def check_jobs(file: str, jobs: Sequence[BatchJob], folder: Path, download: bool, on_step: OnStep) -> None:
    """Reads everything that the jobs need, each clip once.

    Args:
        file: the name of the jobs file, for messages.
        folder: the batch's folder.
        download: fetch models and captioners that are not on this machine, each as soon as a job that needs it passes.
        on_step: called with (jobs checked, jobs in all).

    Raises:
        LoraEditError: the error of the first job that cannot be done.
    """
    for done, job in enumerate(jobs):
        on_step(done, len(jobs))
        try:
            _check(job, folder / folder_of(job.name), download)
        except LoraEditError as error:
            raise type(error)(f"{file}: job '{job.name}': {error}") from error
    on_step(len(jobs), len(jobs))
    _footage.cache_clear()


@lru_cache(maxsize=4)
def _footage(path: Path) -> Footage:
    return open_footage(path)


def _check(job: BatchJob, folder: Path, download: bool) -> None:
    """Checks one job; in place of an automatic mask, the change in the first frame stands for all frames."""
    inputs, settings = job.inputs(), make_settings({**job.settings, "download": download})
    clip = _footage(inputs["source"])
    inputs["source"] = Kept(clip, clip.fps, clip.origin, clip.timed)
    if not inputs["objects"] and inputs["mask"] in (None, "auto"):
        edited = read_edit(inputs["first_frame"], clip.size, settings.fit, name_of_frame(0))
        inputs["mask"] = changed_region(next(clip.rgb(0, 1)), edited)
        settings = _without_tracking(settings)
    prepare(EditRequest(**inputs, settings=settings, out=folder / job.out, run=folder / "run"))


def _without_tracking(settings: EditSettings) -> EditSettings:
    """Checks the tracker, and removes the settings that only an automatic mask may have."""
    folder = None if settings.tracker_model is None else Path(settings.tracker_model)
    open_tracker(settings.tracker, folder, None, settings.device)
    plain = {name: EditSettings.model_fields[name].default for name in ("margin", "tracker", "tracker_model")}
    return settings.model_copy(update=plain)
