"""Decides which job runs next, and what happens to jobs that fail or are lost.

Jobs of one group train the same motion LoRA. The first of a group trains it; the others wait, because on a device of
their own they would only wait for the same LoRA. Groups that no worker is busy with come first.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

__all__ = ["Event", "Pool", "Queue", "Schedulable", "work_through"]

WAIT_S = 0.25
"""How long to wait for events before the terminal is updated."""


class Schedulable(Protocol):
    """The part of a job that the queue needs."""

    @property
    def name(self) -> str:
        """Unique in the batch."""
        ...

    @property
    def group(self) -> str:
        """Equal for jobs that train the same motion LoRA."""
        ...


@dataclass(frozen=True)
class Event:
    """Something that happened to a job.

    Attributes:
        worker: the worker that has the job.
        job: the job's name.
        kind: ``started``; ``progress`` of a phase; ``trained``: others can use its LoRA; ``done``; ``failed``; ``lost``
            together with its worker.
        text: the phase, or the reason of a failure or loss.
        done: steps done in the phase.
        total: steps of the phase.
        record: the outcome of a job that is done.
        again: True if a failed or lost job is tried again.
    """

    worker: str
    job: str
    kind: Literal["started", "progress", "trained", "done", "failed", "lost"]
    text: str = ""
    done: int = 0
    total: int = 0
    record: dict[str, Any] = field(default_factory=dict)
    again: bool = False


class Pool(Protocol):
    """Workers, each with at most one job at a time."""

    def idle(self, wanted: int) -> Sequence[str]:
        """Returns idle workers; starts up to ``wanted`` new ones where there is room."""
        ...

    def start(self, worker: str, job: Any) -> None:
        """Gives a job to an idle worker."""
        ...

    def wait(self, seconds: float) -> list[Event]:
        """Returns events, after ``seconds`` at the latest."""
        ...

    def close(self) -> None:
        """Ends all workers at once; their jobs can be continued later."""
        ...


class Queue:
    """The jobs that have not ended.

    Args:
        jobs: the jobs, in their order.
        retries: how often a failed or lost job is tried again.
        trained: groups whose motion LoRA exists.
    """

    def __init__(self, jobs: Sequence[Schedulable], retries: int, trained: Collection[str] = ()) -> None:
        self.left = len(jobs)
        self.tries: dict[str, int] = {}
        self._retries = retries
        self._waiting: dict[str, deque[Schedulable]] = {}
        self._open: deque[Schedulable] = deque()
        self._trained = set(trained)
        for job in jobs:
            if job.group in self._trained:
                self._open.append(job)
            else:
                self._waiting.setdefault(job.group, deque()).append(job)
        self._fresh = deque(self._waiting)

    def next(self) -> Schedulable | None:
        """Takes a job that can start out of the queue; returns None if there is none at present."""
        if self._fresh:
            job = self._waiting[self._fresh.popleft()].popleft()
        elif self._open:
            job = self._open.popleft()
        else:
            return None
        self.tries[job.name] = self.tries.get(job.name, 0) + 1
        return job

    @property
    def ready(self) -> int:
        """Number of jobs that can start."""
        return len(self._fresh) + len(self._open)

    def trained(self, job: Schedulable) -> None:
        """Releases the other jobs of its group."""
        if job.group not in self._trained:
            self._trained.add(job.group)
            self._open.extend(self._waiting.pop(job.group, ()))

    def done(self, job: Schedulable) -> None:
        """Counts a job as done."""
        self.trained(job)
        self.left -= 1

    def failed(self, job: Schedulable) -> bool:
        """Handles a failed or lost job; returns True if it is tried again."""
        again = self.tries[job.name] <= self._retries
        if job.group in self._trained:
            if again:
                self._open.appendleft(job)
        else:
            waiting = self._waiting[job.group]
            if again:
                waiting.appendleft(job)
            if waiting:
                self._fresh.appendleft(job.group)
        self.left -= not again
        return again


def work_through(queue: Queue, pool: Pool, tell: Callable[[Event | None], None]) -> None:
    """Gives the jobs to the workers until none is left.

    Args:
        tell: called with every event, and with None from time to time.
    """
    held: dict[str, Schedulable] = {}
    while queue.left:
        for worker in pool.idle(queue.ready) if queue.ready else ():
            job = queue.next()
            if job is None:
                break
            held[worker] = job
            pool.start(worker, job)
            tell(Event(worker, job.name, "started", done=queue.tries[job.name]))
        for event in pool.wait(WAIT_S):
            again = _handle(queue, held, event)
            tell(Event(**{**vars(event), "again": again}))
        tell(None)


def _handle(queue: Queue, held: dict[str, Schedulable], event: Event) -> bool:
    """Updates the queue with an event; returns True if the job is tried again."""
    if event.kind == "trained":
        queue.trained(held[event.worker])
    elif event.kind == "done":
        queue.done(held.pop(event.worker))
    elif event.kind in ("failed", "lost"):
        return queue.failed(held.pop(event.worker))
    return False
