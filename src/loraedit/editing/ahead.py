"""Works ahead: computes on the CPU what is needed next, while the device trains, encodes or samples."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from threading import Event
from types import TracebackType
from typing import Any, TypeVar

import torch

from loraedit.optical_flow.estimators import stays_on_cpu
from loraedit.runtime.devices import on_cpu
from loraedit.settings import ResolvedSettings
from loraedit.types import OnStep, no_step

__all__ = ["Ahead", "works_ahead"]

Value = TypeVar("Value")

POLL_SECONDS = 0.1
"""Seconds between two reports while a value is waited for."""


def works_ahead(device: torch.device, settings: ResolvedSettings) -> bool:
    """Returns True if an edit works ahead: if the device is no CPU, and flow that is needed is measured on the CPU.

    On a CPU, work ahead would take cores from the training. A flow estimator on the device would take the memory that
    is planned for the model.
    """
    return not on_cpu(device) and (not settings.carries or stays_on_cpu(settings.flow_estimator))


class Ahead:
    """Computes one value at a time in a background thread, before it is asked for.

    At most one value is kept or computed, so memory stays bounded. A value is the same whether it was computed ahead or
    not, because both call the same function. A function must not share what it changes with other threads.

    Args:
        on: whether to work ahead; if not, every value is computed when it is asked for.
    """

    def __init__(self, on: bool) -> None:
        self._pool = ThreadPoolExecutor(1, "loraedit-ahead") if on else None
        self._task: _Task | None = None

    def __enter__(self) -> Ahead:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Stops what is computed, at its next step, and waits for that."""
        self._drop()
        if self._pool is not None:
            self._pool.shutdown()

    def start(self, key: Hashable, make: Callable[[OnStep], Any]) -> None:
        """Starts to compute a value, unless it is there or on its way. A value of another key is dropped.

        Args:
            key: names the value.
            make: computes it, and calls its argument with (steps done, steps in all).
        """
        if self._pool is not None and (self._task is None or self._task.key != key):
            self._drop()
            self._task = _Task(key, make, self._pool)

    def take(self, key: Hashable, make: Callable[[OnStep], Value], on_step: OnStep = no_step) -> Value:
        """Returns a value: the one that was started, or one that is computed now. It is not kept.

        Raises:
            Exception: whatever ``make`` raised, also ahead.
        """
        task = self._task
        if task is None or task.key != key:
            self._drop()
            return make(on_step)
        try:
            value: Value = task.result(on_step)
        finally:
            self._drop()
        return value

    def _drop(self) -> None:
        if self._task is not None:
            self._task.stop()
            self._task = None


class _Stopped(Exception):
    """Ends a computation whose value nobody wants."""


class _Task:
    """A value that is computed in the background."""

    def __init__(self, key: Hashable, make: Callable[[OnStep], Any], pool: ThreadPoolExecutor) -> None:
        self.key = key
        self._steps, self._unwanted = (0, 1), Event()
        self._future: Future[Any] = pool.submit(make, self._on_step)

    def _on_step(self, done: int, total: int) -> None:
        if self._unwanted.is_set():
            raise _Stopped
        self._steps = done, total

    def stop(self) -> None:
        """Ends the computation at its next step; one that has not begun does not begin."""
        self._unwanted.set()
        self._future.cancel()

    def result(self, on_step: OnStep) -> Any:
        """Waits for the value."""
        while wait([self._future], POLL_SECONDS).not_done:
            on_step(*self._steps)
        return self._future.result()
