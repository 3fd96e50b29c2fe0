"""How far a course of training has come, by steps or by the clock, and the learning rate that goes with it."""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["Budget", "cosine_fall", "linear_fall"]

FLOOR = 0.05
"""The last learning rate, as a share of the peak."""


@dataclass(frozen=True)
class Budget:
    """What a course may take: a number of steps, or seconds if they are given.

    Attributes:
        steps: in all, without a time.
        seconds: of training, all sessions together; None counts steps.
    """

    steps: int
    seconds: float | None = None

    def share(self, step: int, spent: float) -> float:
        """Returns how much of it is used, in [0, 1].

        Args:
            step: steps done.
            spent: seconds spent.
        """
        used = step / self.steps if self.seconds is None else spent / self.seconds
        return min(1.0, used)

    def over(self, step: int, spent: float, reserve: float = 0.0) -> bool:
        """Returns whether no further step fits.

        Args:
            reserve: seconds that a step and what comes after the last one take.
        """
        return step >= self.steps if self.seconds is None else spent + reserve >= self.seconds

    def part(self, share: float) -> Budget:
        """Returns a share of it, at least one step."""
        seconds = None if self.seconds is None else self.seconds * share
        return Budget(max(1, round(self.steps * share)), seconds)


def linear_fall(share: float, step: int, warmup: int) -> float:
    """Returns the rate as a share of its peak: warms up by steps, holds, falls linearly over the last 30 %."""
    return _warm(step, warmup) * min(1.0, FLOOR + (1 - FLOOR) * (1 - share) / 0.3)


def cosine_fall(share: float, step: int, warmup: int) -> float:
    """Returns the rate as a share of its peak: warms up by steps, holds, falls as a cosine over the last 60 %."""
    fall = min(1.0, max(0.0, (share - 0.4) / 0.6))
    return _warm(step, warmup) * (FLOOR + (1 - FLOOR) * 0.5 * (1 + math.cos(math.pi * fall)))


def _warm(step: int, warmup: int) -> float:
    return min(1.0, (step + 1) / warmup)
