"""Keeps track of phases: how far each is, how long it has taken, and how long it will take."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

__all__ = ["Clock", "Phase", "PhaseTimes", "duration"]

Clock = Callable[[], float]
"""Returns the time in seconds, from any start."""


@dataclass
class Phase:
    """One phase.

    Attributes:
        name: its name in progress events.
        done: steps done.
        total: all steps.
        note: the text of the last event, such as the loss.
        seconds: the time spent in it, without the time of phases in between.
        left_s: the estimated seconds left; None while there is nothing to estimate from.
        ended: whether all steps are done.
    """

    name: str
    done: int = 0
    total: int = 1
    note: str = ""
    seconds: float = 0.0
    left_s: float | None = None
    ended: bool = False
    _first: tuple[int, float] = field(default=(0, 0.0), repr=False)

    def advance(self, done: int, total: int, note: str) -> None:
        """Takes the counts of an event.

        Events count in two ways: ``3 of 60 steps`` within a phase, and ``1 of 3 parts`` at the ends of its parts. Parts
        are converted to steps.
        """
        total = max(total, 1)
        if total < self.total and self.total % total == 0:
            done, total = done * (self.total // total), self.total
        if total != self.total:
            self._first = (done, self.seconds)
        self.done, self.total, self.note = done, total, note or self.note
        steps, seconds = done - self._first[0], self.seconds - self._first[1]
        self.left_s = seconds / steps * (total - done) if steps > 0 else None
        self.ended = done == total


class PhaseTimes:
    """Turns progress events into phases.

    Args:
        clock: the source of time.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._last = clock()
        self.phases: dict[str, Phase] = {}
        self.current: Phase | None = None

    def event(self, name: str, done: int, total: int, note: str) -> Phase:
        """Takes a progress event.

        A phase that has ended starts again at zero if its next event is not an end.

        Returns:
            the phase of the event.
        """
        self.pass_time()
        phase = self.phases.get(name)
        if phase is None or (phase.ended and done != total):
            phase = self.phases[name] = Phase(name)
        if not phase.ended:
            phase.advance(done, total, note)
        self.current = phase
        return phase

    def pass_time(self) -> None:
        """Adds the time since the last call to the current phase, unless it has ended."""
        now = self._clock()
        if self.current is not None and not self.current.ended:
            passed = now - self._last
            self.current.seconds += passed
            if self.current.left_s is not None:
                self.current.left_s = max(0.0, self.current.left_s - passed)
        self._last = now


def duration(seconds: float) -> str:
    """Returns a duration as text: ``0.4 s``, ``12 s``, ``3 min 05 s`` or ``1 h 02 min``.

    Whole numbers of type int have no decimals.
    """
    if seconds < 9.95 and isinstance(seconds, float):
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
