"""Workers of a Ray cluster: one actor per GPU, which keeps loaded weights between jobs.

Ray places the workers and reports when one is lost, with its node or alone. Order and retries of jobs are decided here
as on one machine. Ray keeps no state of a batch, so nothing is lost with the cluster's head.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loraedit.batch.local import Task, attempt, settle
from loraedit.batch.places import Depot
from loraedit.batch.schedule import Event, Schedulable
from loraedit.errors import InputError

__all__ = ["RayPool", "check_ray"]

QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
NEWS_EVERY_S = 1.0
LOOK_EVERY_S = 2.0
"""How often the size of the cluster is queried."""
MOST_BROKEN = 20
"""The batch ends after more than this number of workers in a row fail to start."""


def check_ray() -> None:
    """Checks that Ray is installed.

    Raises:
        InputError: it is not.
    """
    if importlib.util.find_spec("ray") is None:
        raise InputError("--ray needs Ray: pip install '.[ray]'. Without --ray, this machine works alone.")


class _Actor:
    """A worker in a process of the cluster."""

    def __init__(self, task: Task, threads: int) -> None:
        self._task, self._threads, self._settled = task, threads, False
        self._news: tuple[str, int, int] = ("", 0, 0)
        self._trained = False

    def ready(self, mark: str | None, word: str) -> str | None:
        """Checks that the batch's folder is the same here as where the batch was started; returns a message if not."""
        with suppress(OSError):
            if mark is None or Path(mark).read_text() == word:
                return None
        import socket

        folder = Path(str(mark)).parent
        return (
            f"The node {socket.gethostname()} does not see '{folder}' as this one does. Put the batch's folder and its "
            "inputs on storage that all nodes share, or give URLs."
        )

    def run(self, job: Any) -> dict[str, Any]:
        """Runs a job; see :func:`loraedit.batch.local.attempt`."""
        self._news, self._trained = ("", 0, 0), False
        if not self._settled:
            settle(0, self._threads)
            self._settled = True
        return attempt(self._task, job, self._take_note)

    def _take_note(self, kind: str, phase: str, done: int, total: int) -> None:
        self._news = phase, done, total
        self._trained |= kind == "trained"

    def news(self) -> tuple[tuple[str, int, int], bool]:
        """Returns the job's progress, and True if its LoRA exists; answered while the job runs."""
        return self._news, self._trained


@dataclass
class _Worker:
    actor: Any
    ready: bool = False
    job: Schedulable | None = None
    trained: bool = False
    asked: float = 0.0


class RayPool:
    """See :class:`loraedit.batch.schedule.Pool`.

    Args:
        task: what the workers run.
        depot: the batch's folder.
        gpus: share of a GPU per worker.
        most: maximum number of useful workers.
    """

    def __init__(self, task: Task, depot: Depot, gpus: float, most: int) -> None:
        self._task, self._gpus, self._most = task, gpus, most
        self._workers: dict[str, _Worker] = {}
        self._refs: dict[Any, tuple[str, str]] = {}
        self._made, self._broken, self._owns_ray = 0, 0, False
        self._looked, self._room = -LOOK_EVERY_S, 0
        self._word = uuid.uuid4().hex
        self._mark = None if depot.url else depot.local.resolve() / ".batch"
        if self._mark is not None:
            self._mark.parent.mkdir(parents=True, exist_ok=True)
            self._mark.write_text(self._word)

    @classmethod
    def connect(cls, address: str, task: Task, depot: Depot, gpus: float, most: int) -> RayPool:
        """Connects to the cluster at an address.

        Raises:
            InputError: there is no cluster, or it has no GPU where one is needed.
        """
        os.environ.update({name: value for name, value in QUIET.items() if name not in os.environ})
        import ray

        pool = cls(task, depot, gpus, most)
        if not ray.is_initialized():
            own: dict[str, Any] = {"include_dashboard": False} if address == "local" else {}
            try:
                ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **own)
            except (OSError, ValueError, RuntimeError) as error:
                reason = str(error).strip().splitlines()[0].rstrip(".")
                raise InputError(
                    f"There is no Ray cluster at '{address}': {reason}. See docs/batches-and-clusters.md."
                ) from error
            pool._owns_ray = True
        if gpus and not pool._capacity():
            pool.close()
            raise InputError("The Ray cluster has no GPU. Give --gpus-per-job 0 to work on its CPUs.")
        return pool

    def _capacity(self) -> int:
        """Returns how many workers the cluster has room for at present."""
        import ray

        if time.monotonic() - self._looked >= LOOK_EVERY_S:
            found = ray.cluster_resources()
            self._room = int(found.get("GPU", 0) / self._gpus) if self._gpus else int(found.get("CPU", 0))
            self._threads = max(1, int(found.get("CPU", 1) / max(1, self._room)))
            self._looked = time.monotonic()
        return self._room

    def idle(self, wanted: int) -> Sequence[str]:
        """Returns workers without a job; requests new ones, which are idle once they have started."""
        with _connected():
            busy = sum(worker.job is not None for worker in self._workers.values())
            for _ in range(min(self._capacity(), self._most, busy + wanted) - len(self._workers)):
                self._begin()
        return [name for name, worker in self._workers.items() if worker.ready and worker.job is None]

    def _begin(self) -> None:
        import ray

        remote: Any = ray.remote(_Actor)
        kind = remote.options(num_cpus=1, num_gpus=self._gpus, max_concurrency=2, max_restarts=0, max_task_retries=0)
        name = f"worker-{self._made}"
        self._made += 1
        actor = kind.remote(self._task, self._threads)
        self._workers[name] = _Worker(actor)
        self._refs[actor.ready.remote(None if self._mark is None else str(self._mark), self._word)] = name, "ready"

    def start(self, worker: str, job: Any) -> None:
        """Sends a job to a worker; if the worker is dead, :meth:`wait` reports it."""
        held = self._workers[worker]
        held.job, held.trained, held.asked = job, False, time.monotonic()
        self._refs[held.actor.run.remote(job)] = worker, "run"

    def wait(self, seconds: float) -> list[Event]:
        """Returns the workers' answers and deaths as events."""
        import ray

        with _connected():
            self._ask()
            if not self._refs:
                time.sleep(seconds)
                return []
            ready, _ = ray.wait(list(self._refs), num_returns=1, timeout=seconds)
            if ready:
                ready, _ = ray.wait(list(self._refs), num_returns=len(self._refs), timeout=0)
            return [event for ref in ready for event in self._answered(ref)]

    def _ask(self) -> None:
        """Asks busy workers for their progress, one question at a time."""
        for name, worker in self._workers.items():
            if worker.job is not None and time.monotonic() - worker.asked >= NEWS_EVERY_S:
                worker.asked = float("inf")
                self._refs[worker.actor.news.remote()] = name, "news"

    def _answered(self, ref: Any) -> Iterator[Event]:
        import ray

        name, question = self._refs.pop(ref)
        worker = self._workers.get(name)
        if worker is None:
            return
        try:
            answer = ray.get(ref)
        except ray.exceptions.RayError as error:
            yield from self._lost(name, error)
            return
        if question == "ready":
            if answer is not None:
                raise InputError(answer)
            worker.ready, self._broken = True, 0
        elif question == "run" and worker.job is not None:
            job, worker.job = worker.job, None
            yield Event(name, job.name, **answer)
        elif question == "news" and worker.job is not None:
            yield from self._heard(name, worker, *answer)

    def _heard(self, name: str, worker: _Worker, news: tuple[str, int, int], trained: bool) -> Iterator[Event]:
        assert worker.job is not None
        worker.asked = time.monotonic()
        if trained and not worker.trained:
            worker.trained = True
            yield Event(name, worker.job.name, "trained", *news)
        elif news[0]:
            yield Event(name, worker.job.name, "progress", *news)

    def _lost(self, name: str, error: Exception) -> Iterator[Event]:
        import ray

        worker = self._workers.pop(name)
        with suppress(Exception):  # it may be gone already
            ray.kill(worker.actor)
        self._looked = -LOOK_EVERY_S
        if worker.job is not None:
            yield Event(name, worker.job.name, "lost", "Its worker or the node of its worker ended.")
            return
        self._broken += 1
        if self._broken > MOST_BROKEN:
            raise InputError(f"Workers cannot start on the cluster: {str(error).strip().splitlines()[0]}")

    def close(self) -> None:
        """Ends the workers, and disconnects from the cluster."""
        import ray

        for worker in self._workers.values():
            with suppress(Exception):
                ray.kill(worker.actor)
        self._workers.clear()
        self._refs.clear()
        if self._mark is not None:
            self._mark.unlink(missing_ok=True)
        if self._owns_ray:
            ray.shutdown()


@contextmanager
def _connected() -> Iterator[None]:
    """Turns the loss of the cluster into one sentence."""
    import ray

    try:
        yield
    except (ray.exceptions.RaySystemError, ConnectionError) as error:
        raise ConnectionError("The head of the Ray cluster can no longer be reached") from error
