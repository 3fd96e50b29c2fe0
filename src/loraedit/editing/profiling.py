"""The profile of a run: the time of each phase, and of the calls to the family within it.

These are plain timers, because a profiler of every operation would slow down what it measures.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, NamedTuple

import torch

from loraedit.families.base import Family

__all__ = ["PARTS", "Profile", "ProfileRow"]

PARTS = {
    "embed": "encode texts and pictures", "encode_clips": "encode clips",
    "load_transformer": "load the transformer", "velocity": "passes through the model", "decode": "decode latents",
}  # fmt: skip
"""The timed methods of a family, and their names in the table. In training, a pass is the forward pass alone."""


class ProfileRow(NamedTuple):
    """A row of the table."""

    phase: str
    part: str
    seconds: float
    calls: int


@dataclass
class Profile:
    """Seconds by phase, and seconds and calls by phase and method.

    Attributes:
        phases: seconds by phase, without those of the phases inside it.
        parts: for each phase, seconds and number of calls by method.
    """

    phases: dict[str, float] = field(default_factory=dict)
    parts: dict[str, dict[str, tuple[float, int]]] = field(default_factory=dict)
    _open_phases: list[str] = field(default_factory=list)

    def watch(self, family: Family, device: torch.device) -> None:
        """Times the methods of a family from now on, in place. Each call waits for the accelerator."""
        for name in PARTS:
            setattr(family, name, self._timed(name, getattr(family, name), device))

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Counts the time inside as that of a phase, and not as that of the phase around it."""
        start = time.perf_counter()
        self._open_phases.append(name)
        try:
            yield
        finally:
            self._open_phases.pop()
            seconds = time.perf_counter() - start
            self.phases[name] = self.phases.get(name, 0.0) + seconds
            if self._open_phases:
                outer = self._open_phases[-1]
                self.phases[outer] = self.phases.get(outer, 0.0) - seconds

    def rows(self) -> list[ProfileRow]:
        """Returns the table. The part ``other`` is the time of a phase that no timed method accounts for."""
        rows = []
        for phase, seconds in self.phases.items():
            parts = self.parts.get(phase, {})
            rows += [ProfileRow(phase, PARTS[name], *timed) for name, timed in parts.items()]
            rows.append(ProfileRow(phase, "other", seconds - sum(timed for timed, _ in parts.values()), 1))
        return rows

    def as_json(self) -> dict[str, Any]:
        """Returns phases and table as JSON values."""
        return {"phases": self.phases, "parts": [row._asdict() for row in self.rows()]}

    def _timed(self, name: str, method: Callable[..., Any], device: torch.device) -> Callable[..., Any]:
        @wraps(method)
        def timed(*args: Any, **options: Any) -> Any:
            start = time.perf_counter()
            result = method(*args, **options)
            if device.type != "cpu":
                torch.accelerator.synchronize(device)
            phase = self._open_phases[-1] if self._open_phases else "prepare"
            seconds, calls = self.parts.setdefault(phase, {}).get(name, (0.0, 0))
            self.parts[phase][name] = seconds + time.perf_counter() - start, calls + 1
            return result

        return timed
