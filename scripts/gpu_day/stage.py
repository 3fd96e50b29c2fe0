"""What a stage is, and the findings that it gives."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from scripts.gpu_day.bench import Bench

__all__ = ["NEAR", "Finding", "Stage", "alike", "near", "no_more", "told"]

NEAR = 0.10
"""The largest difference between a peak and its plan, as a share of the plan."""


@dataclass(frozen=True)
class Finding:
    """One measured figure.

    Attributes:
        measure: what was measured.
        value: the figure; None if it could not be measured here.
        unit: of the figure; empty for a ratio.
        planned: what was planned, in the same unit, or None.
        holds: whether the figure is as it should be; None if nothing is claimed of it.
        note: what else there is to know.
    """

    measure: str
    value: float | None
    unit: str = ""
    planned: float | None = None
    holds: bool | None = None
    note: str = ""


@dataclass(frozen=True)
class Stage:
    """A part of the measurements, which runs in a process of its own.

    Attributes:
        name: unique.
        limit_s: seconds after which it is stopped.
        about: what it measures.
        holds_if: what its figures must show.
        run: yields the findings one after the other, the most valuable first.
        plan: measures the plans that the stage compares with, ahead of it and outside its time.
    """

    name: str
    limit_s: float
    about: str
    holds_if: str
    run: Callable[[Bench], Iterator[Finding]]
    plan: Callable[[Bench], object] = lambda _: None


def told(measure: str, value: float | None, unit: str = "", planned: float | None = None, note: str = "") -> Finding:
    """Returns a figure of which nothing is claimed."""
    return Finding(measure, value, unit, planned, None, note)


def near(measure: str, value: int, planned: int) -> Finding:
    """Returns a peak of memory that must be near its plan."""
    return Finding(measure, value / 1e9, "GB", planned / 1e9, abs(value - planned) <= NEAR * planned)


def alike(measure: str, cosine: float, least: float = 0.99) -> Finding:
    """Returns a cosine similarity that must be above ``least``."""
    return Finding(measure, cosine, "", None, cosine > least, f"above {least}")


def no_more(measure: str, value: float, most: float, claimed: bool) -> Finding:
    """Returns a ratio that must be at most ``most``, if that is claimed."""
    return Finding(measure, value, "", None, value <= most if claimed else None, f"at most {most}" if claimed else "")
