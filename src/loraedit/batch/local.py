"""Workers on this machine: one process a device, which keeps what it has read between jobs."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from loraedit.batch.schedule import Event, Schedulable
from loraedit.errors import ended_by_signal, explain

__all__ = ["LocalPool", "Report", "Task", "attempt", "settle"]

Report = Callable[[str, str, int, int], None]
"""Told (``progress`` or ``trained``, phase, done, total)."""

Task = Callable[[Any, Report], dict[str, Any]]
"""What a worker does with a job; what it returns is JSON. It is pickled once for each worker."""

STOP_S = 5.0


@dataclass
class _Worker:
    process: BaseProcess
    pipe: Connection
    job: Schedulable | None = None


@dataclass
class LocalPool:
    """See :class:`loraedit.batch.schedule.Pool`.

    Attributes:
        task: what the workers do.
        size: how many there may be.
        log: a folder for what they print.
    """

    task: Task
    size: int
    log: Path
    _workers: dict[str, _Worker] = field(default_factory=dict)

    def idle(self, wanted: int) -> Sequence[str]:
        """Those without a job, and up to ``wanted`` in all, newly started ones."""
        found = [name for name, worker in self._workers.items() if worker.job is None]
        for index in range(self.size):
            if len(found) >= wanted:
                break
            if (name := f"worker-{index}") not in self._workers:
                self._workers[name] = self._begin(name, index)
                found.append(name)
        return found[:wanted]

    def _begin(self, name: str, index: int) -> _Worker:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        self.log.mkdir(parents=True, exist_ok=True)
        threads = max(1, (os.cpu_count() or 1) // self.size) if self.size > 1 else 0
        about = self.task, theirs, self.log / f"{name}.log", index, threads
        process = context.Process(target=_serve, args=about, name=name, daemon=True)
        process.start()
        theirs.close()
        return _Worker(process, ours)

    def start(self, worker: str, job: Any) -> None:
        """Send it; should the worker be dead, that is heard of soon."""
        self._workers[worker].job = job
        try:
            self._workers[worker].pipe.send(job)
        except OSError:
            return

    def wait(self, seconds: float) -> list[Event]:
        """What the pipes bring, and who has died."""
        by_pipe = {worker.pipe: name for name, worker in self._workers.items()}
        events = []
        for pipe in wait(list(by_pipe), seconds):
            assert isinstance(pipe, Connection)
            events += self._heard(by_pipe[pipe], pipe)
        return events

    def _heard(self, name: str, pipe: Connection) -> list[Event]:
        worker, events = self._workers[name], []
        try:
            while pipe.poll():
                message = pipe.recv()
                assert worker.job is not None
                events.append(Event(name, worker.job.name, **message))
                if message["kind"] in ("done", "failed"):
                    worker.job = None
        except (EOFError, OSError):
            worker.process.join(STOP_S)
            del self._workers[name]
            pipe.close()
            if worker.job is not None:
                code = worker.process.exitcode or 0
                why = ended_by_signal(-code) if code < 0 else f"Its worker ended; see {self.log / name}.log."
                events.append(Event(name, worker.job.name, "lost", why))
        return events

    def close(self) -> None:
        """Let the idle ones go, and kill the others; every file that counts is written whole or not at all."""
        for worker in self._workers.values():
            worker.pipe.close()
            if worker.job is not None:
                worker.process.kill()
        for worker in self._workers.values():
            worker.process.join(STOP_S)
            worker.process.kill()
            worker.process.join()
        self._workers.clear()


def attempt(task: Task, job: Any, report: Report) -> dict[str, Any]:
    """Do a job; what came of it as the fields of an :class:`Event`."""
    try:
        return {"kind": "done", "record": task(job, report)}
    except Exception as error:  # whatever it is, the other jobs go on
        return {"kind": "failed", "text": explain(error) or f"{type(error).__name__}: {error}"}


def _serve(task: Task, pipe: Connection, log: Path, index: int, threads: int) -> None:
    """A worker's life: jobs from a pipe until it is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the one who started us ends us
    threading.Thread(target=_end_with_parent, daemon=True).start()
    sys.stdout = sys.stderr = log.open("a", buffering=1)
    os.dup2(sys.stderr.fileno(), 1)
    os.dup2(sys.stderr.fileno(), 2)
    if index or threads:
        settle(index, threads)
    while True:
        try:
            job = pipe.recv()
        except EOFError:
            return
        pipe.send(attempt(task, job, lambda kind, text, done, total: pipe.send(
            {"kind": kind, "text": text, "done": done, "total": total})))  # fmt: skip


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def settle(index: int, threads: int) -> None:
    """Give this process its device, and its share of the processors.

    Args:
        index: of the device, counted on beyond the last.
        threads: of computing; 0 leaves torch's choice.
    """
    import torch

    if torch.accelerator.is_available() and torch.accelerator.device_count() > 1:
        torch.accelerator.set_device_index(index % torch.accelerator.device_count())
    if threads and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(threads)
