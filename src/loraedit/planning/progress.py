"""Counts the steps of planning, of which there are more with every choice that is measured."""

from __future__ import annotations

from loraedit.types import OnStep

__all__ = ["GrowingCount"]


class GrowingCount:
    """Counts the steps of several parts in one go, so that the count never goes back.

    Args:
        on_step: called with (steps done, steps in all as far as they are known).
        parts: number of parts, if it is known; each that is to come counts as one step.
    """

    def __init__(self, on_step: OnStep, parts: int = 0) -> None:
        self._on_step, self._to_come = on_step, parts
        self._before = self._total = 0

    def next_part(self) -> OnStep:
        """Returns the callback of the next part, which begins where the last one ended."""
        self._before, self._to_come = self._total, max(self._to_come - 1, 0)
        return self._step

    def end(self) -> None:
        """Reports that all steps are done."""
        self._on_step(max(self._total, 1), max(self._total, 1))

    def _step(self, done: int, total: int) -> None:
        self._total = self._before + total
        self._on_step(self._before + done, self._total + self._to_come)
