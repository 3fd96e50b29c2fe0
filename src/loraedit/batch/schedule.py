"""Which job comes next, and what becomes of those that fail or are lost.

Jobs of one group learn the same motion. The first of a group trains; the others wait until it has, for they would only
wait for the same LoRA on a device of their own. Groups that nobody works on come first.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

__all__ = ["Event", "Pool", "Queue", "Schedulable", "work_through"]

WAIT_S = 0.25
"""How long to wait for news before the terminal is brought up to date."""


class Schedulable(Protocol):
    """What the queue has to know of a job."""

    @property
    def name(self) -> str:
        """Its own alone."""
        ...

    @property
    def group(self) -> str:
        """The same for jobs that learn the same motion."""
        ...


@dataclass(frozen=True)
class Event:
    """News of a job.

    Attributes:
        worker: who has it.
        kind: ``started``; ``progress`` of a phase; ``trained``: its LoRA is there for others; ``done``; ``failed``,
            with why; ``lost`` with its worker, with why.
        text: the phase, or why.
        done: steps of the phase.
        total: of so many.
        record: what a job that is done has to say.
        again: whether a job that failed or was lost is tried again.
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
    """Workers, each of which has one job at a time."""

    def idle(self, wanted: int) -> Sequence[str]:
        """Workers that wait for a job; up to ``wanted`` more are started where there is room."""
        ...

    def start(self, worker: str, job: Any) -> None:
        """Give a job to an idle worker."""
        ...

    def wait(self, seconds: float) -> list[Event]:
        """News, at the latest after so many seconds."""
        ...

    def close(self) -> None:
        """End all workers at once; what they leave can be continued."""
        ...


class Queue:
    """The jobs that have not ended.

    Args:
        jobs: in their order.
        retries: how often a job is tried again that has failed or was lost.
        trained: groups whose motion LoRA is there.
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
        """A job that can begin, taken out of the queue; None if there is none just now."""
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
        """How many jobs can begin."""
        return len(self._fresh) + len(self._open)

    def trained(self, job: Schedulable) -> None:
        """The others of its group can begin."""
        if job.group not in self._trained:
            self._trained.add(job.group)
            self._open.extend(self._waiting.pop(job.group, ()))

    def done(self, job: Schedulable) -> None:
        """It has ended well."""
        self.trained(job)
        self.left -= 1

    def failed(self, job: Schedulable) -> bool:
        """It has failed, or was lost; whether it comes again."""
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
    """Give the jobs to the workers until none is left.

    Args:
        tell: told all news, and None from time to time.
    """
    given: dict[str, Schedulable] = {}
    while queue.left:
        for worker in pool.idle(queue.ready) if queue.ready else ():
            job = queue.next()
            if job is None:
                break
            given[worker] = job
            pool.start(worker, job)
            tell(Event(worker, job.name, "started", done=queue.tries[job.name]))
        for event in pool.wait(WAIT_S):
            again = _heed(queue, given, event)
            tell(Event(**{**vars(event), "again": again}))
        tell(None)


def _heed(queue: Queue, given: dict[str, Schedulable], event: Event) -> bool:
    """What news mean for the queue; whether the job comes again."""
    if event.kind == "trained":
        queue.trained(given[event.worker])
    elif event.kind == "done":
        queue.done(given.pop(event.worker))
    elif event.kind in ("failed", "lost"):
        return queue.failed(given.pop(event.worker))
    return False
