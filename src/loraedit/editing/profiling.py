"""Where the time of a run goes: its phases, and within each the calls of the family that take it.

Plain timers: a profiler of every operation would slow down what it measures.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import wraps
from typing import Any

import torch

from loraedit.families.base import Family

__all__ = ["PARTS", "Profile"]

PARTS = {
    "encode": "encode text, images, latents", "embed_prompt": "encode the negative prompt",
    "load_transformer": "load the transformer", "velocity": "passes through the model", "decode": "decode latents",
}  # fmt: skip
"""The family's methods that are timed, and what the table calls them; in training a pass is the forward one."""


@dataclass
class Profile:
    """Seconds and calls by phase and method, and the seconds of each phase as a whole.

    Attributes:
        phases: seconds by phase; what a phase inside it took is not counted twice.
        parts: by phase and method: seconds, and how often it was called.
    """

    phases: dict[str, float] = field(default_factory=dict)
    parts: dict[str, dict[str, tuple[float, int]]] = field(default_factory=dict)
    _inside: list[str] = field(default_factory=list)

    def watch(self, family: Family, device: torch.device) -> None:
        """Time the methods of a family from now on, in place; an accelerator is waited for."""
        for name in PARTS:
            setattr(family, name, self._timed(name, getattr(family, name), device))

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count the time within as that of a phase, and not as that of the phase around it."""
        start = time.perf_counter()
        self._inside.append(name)
        yield
        self._inside.pop()
        seconds = time.perf_counter() - start
        self.phases[name] = self.phases.get(name, 0.0) + seconds
        if self._inside:
            self.phases[self._inside[-1]] = self.phases.get(self._inside[-1], 0.0) - seconds

    def rows(self) -> list[tuple[str, str, float, int]]:
        """Phase, part, seconds and calls; what no part accounts for is ``other``."""
        rows = []
        for phase, seconds in self.phases.items():
            parts = self.parts.get(phase, {})
            rows += [(phase, PARTS[name], *taken) for name, taken in parts.items()]
            rows.append((phase, "other", seconds - sum(taken for taken, _ in parts.values()), 1))
        return rows

    def as_json(self) -> dict[str, Any]:
        """The same as JSON values."""
        return {
            "phases": self.phases,
            "parts": [dict(zip(("phase", "part", "seconds", "calls"), row, strict=True)) for row in self.rows()],
        }

    def _timed(self, name: str, method: Callable[..., Any], device: torch.device) -> Callable[..., Any]:
        @wraps(method)
        def timed(*args: Any, **options: Any) -> Any:
            start = time.perf_counter()
            result = method(*args, **options)
            if device.type != "cpu":
                torch.accelerator.synchronize(device)
            phase = self._inside[-1] if self._inside else "prepare"
            seconds, calls = self.parts.setdefault(phase, {}).get(name, (0.0, 0))
            self.parts[phase][name] = seconds + time.perf_counter() - start, calls + 1
            return result

        return timed
