"""Workers on this machine: one process per device, which keeps loaded weights between jobs."""

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
"""Called with (``progress`` or ``trained``, phase, done, total)."""

Task = Callable[[Any, Report], dict[str, Any]]
"""Runs a job in a worker and returns a JSON object. It is pickled once for each worker."""

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
        task: what the workers run.
        size: maximum number of workers.
        log: folder for their output.
    """

    task: Task
    size: int
    log: Path
    _workers: dict[str, _Worker] = field(default_factory=dict)

    def idle(self, wanted: int) -> Sequence[str]:
        """Returns up to ``wanted`` workers without a job, starting new ones if need be."""
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
        """Sends a job to a worker; if the worker is dead, :meth:`wait` reports it."""
        self._workers[worker].job = job
        try:
            self._workers[worker].pipe.send(job)
        except OSError:
            return

    def wait(self, seconds: float) -> list[Event]:
        """Returns the workers' messages and deaths as events."""
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
        """Ends idle workers and kills the others; every file that counts is written whole or not at all."""
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
    """Runs a job; returns the outcome as fields of an :class:`Event`."""
    try:
        return {"kind": "done", "record": task(job, report)}
    except Exception as error:  # the other jobs go on
        return {"kind": "failed", "text": explain(error) or f"{type(error).__name__}: {error}"}


def _serve(task: Task, pipe: Connection, log: Path, index: int, threads: int) -> None:
    """Runs jobs from a pipe until the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent process ends this one
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
    """Assigns this process its device, and its share of the processors.

    Args:
        index: the device's index, modulo the number of devices.
        threads: number of threads; 0 keeps torch's choice.
    """
    import torch

    if torch.accelerator.is_available() and torch.accelerator.device_count() > 1:
        torch.accelerator.set_device_index(index % torch.accelerator.device_count())
    if threads and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(threads)
