"""Runs a batch from its file to its results; jobs that are done in its folder are not done again."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loraedit.batch.board import Board, Line, as_csv, as_json
from loraedit.batch.check import check_jobs
from loraedit.batch.jobs import BatchJob, folder_of, read_jobs
from loraedit.batch.local import LocalPool
from loraedit.batch.page import index_page
from loraedit.batch.places import Depot
from loraedit.batch.schedule import Event, Pool, Queue, work_through
from loraedit.batch.work import OUTCOME_FILE, EditTask, read_outcome
from loraedit.errors import InputError
from loraedit.storage.files import write_text
from loraedit.storage.locks import sole_user
from loraedit.types import OnStep, no_step

__all__ = ["BatchResult", "run_batch"]

RESULTS = ("results.csv", "results.json", "index.html")
WRITE_EVERY_S = 30.0
"""How often the tables are written while the batch runs."""


@dataclass(frozen=True)
class BatchResult:
    """The outcome of a batch.

    Attributes:
        board: every job.
        places: ``results.csv``, ``results.json`` and ``index.html``, by name: paths or URLs.
    """

    board: Board
    places: dict[str, str]


def run_batch(
    file: Path,
    ray: str | None = None,
    gpus_per_job: float = 1.0,
    retries: int = 2,
    on_check: OnStep = no_step,
    on_news: Callable[[Board], None] = lambda _: None,
    download: bool = False,
) -> BatchResult:
    """Runs all jobs of a file that are not done yet.

    Args:
        file: ``jobs.toml``; see :class:`loraedit.batch.entries.BatchFile`.
        ray: address of a Ray cluster, ``auto``, or ``local`` for one on this machine; None works without Ray.
        gpus_per_job: share of a GPU per job; 0 works on CPUs.
        retries: how often a job is tried again after it fails or its worker dies.
        on_check: called with (jobs checked, jobs in all) before anything runs.
        on_news: called with the state of the batch, several times a second.
        download: fetch models and captioners that are not on this machine, before anything runs.

    Raises:
        InputError: something given cannot be used; nothing has been done.
        ModelError: a checkpoint cannot be used; nothing has been done.
    """
    make_pool = _pool_maker(ray, gpus_per_job)
    batch, jobs = read_jobs(file)
    assert batch.folder is not None
    depot = Depot(batch.folder)
    board = Board(_lines(depot, jobs))
    missing = [job for job in jobs if board.lines[job.name].state != "done"]
    check_jobs(file.name, missing, depot.local, download, on_check)
    depot.local.mkdir(parents=True, exist_ok=True)
    with sole_user(depot.local):
        task = EditTask(batch.folder, "cpu" if gpus_per_job == 0 else None, batch.image_encoder)
        tables = _Tables(file.stem, depot, board)
        trained = {job.group for job in jobs if board.lines[job.name].state == "done"}
        pool = make_pool(task, depot, len(missing)) if missing else None
        try:
            if pool is not None:
                work_through(Queue(missing, retries, trained), pool, _teller(board, tables, on_news))
        finally:
            if pool is not None:
                pool.close()
            tables.write()
    return BatchResult(board, tables.places())


def _lines(depot: Depot, jobs: Sequence[BatchJob]) -> list[Line]:
    """Returns the state of the jobs as their folders record it."""
    lines = []
    for job in jobs:
        depot.pull(f"{folder_of(job.name)}/{OUTCOME_FILE}", again=True)
        record = read_outcome(depot.local / folder_of(job.name), job.key)
        line = Line(job.name, job.place)
        if record is not None:
            line.state, line.record = "done", record
        lines.append(line)
    return lines


def _teller(board: Board, tables: _Tables, on_news: Callable[[Board], None]) -> Callable[[Event | None], None]:
    def tell(event: Event | None) -> None:
        if event is not None:
            board.update(event)
            return
        on_news(board)
        tables.write_if_due()

    return tell


class _Tables:
    """Writes the results from time to time, and at the end."""

    def __init__(self, title: str, depot: Depot, board: Board) -> None:
        self._title, self._depot, self._board, self._written = title, depot, board, time.monotonic()

    def write_if_due(self) -> None:
        if time.monotonic() - self._written > WRITE_EVERY_S:
            self.write()

    def write(self) -> None:
        began = time.monotonic()
        contents = (
            as_csv(self._board.rows()),
            as_json(self._board),
            index_page(self._title, self._board, self._thumbs()),
        )
        for name, text in zip(RESULTS, contents, strict=True):
            write_text(self._depot.local / name, text)
        self._depot.push(*RESULTS)
        self._written = time.monotonic() + 9 * (time.monotonic() - began)  # writing takes at most a tenth of the time

    def _thumbs(self) -> dict[str, bytes]:
        found = {}
        for line in self._board.lines.values():
            if line.state == "done":
                name = f"{folder_of(line.name)}/thumb.jpg"
                self._depot.pull(name)
                path = self._depot.local / name
                if path.is_file():
                    found[line.name] = path.read_bytes()
        return found

    def places(self) -> dict[str, str]:
        where = self._depot.url or str(self._depot.local)
        return {name: f"{where}/{name}" for name in RESULTS}


def _pool_maker(ray: str | None, gpus_per_job: float) -> Callable[[EditTask, Depot, int], Pool]:
    """Returns a function that starts the workers.

    Raises:
        InputError: Ray is wanted but not installed, or the share of a GPU is out of range.
    """
    if not 0 <= gpus_per_job <= 1:
        raise InputError(f"--gpus-per-job is {gpus_per_job:g}. Expected 0 to 1: an edit uses at most one GPU.")
    if ray is not None:
        from loraedit.batch.cluster import RayPool, check_ray

        check_ray()
        return lambda task, depot, count: RayPool.connect(ray, task, depot, gpus_per_job, count)
    return lambda task, depot, count: LocalPool(task, min(count, _slots(gpus_per_job)), depot.local / "logs")


def _slots(gpus_per_job: float) -> int:
    """Returns how many jobs this machine runs at once."""
    import torch

    devices: Any = torch.accelerator
    if gpus_per_job == 0 or not devices.is_available():
        return 1
    return max(1, int(devices.device_count() / gpus_per_job))
