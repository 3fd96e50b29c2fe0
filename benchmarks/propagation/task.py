"""One method on one case, and the picture of its result."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.keeping import result_key
from benchmarks.propagation.methods import Method
from benchmarks.propagation.rows import CHOICES, METHODS
from loraedit.types import Frames, Image

__all__ = ["Task", "strip"]

MOMENTS = (0, 4, 8, 12, 16)
"""The frames in the picture of a case."""


@dataclass(frozen=True)
class Task:
    """Describes one method on one case."""

    kind: str
    number: int
    name: str
    work: Path

    @property
    def method(self) -> Method:
        return {**METHODS, **CHOICES}[self.name]

    def result_file(self) -> Path:
        """Returns the file of its scores; the picture lies beside it."""
        method = self.method
        made_by = method.make.__name__ if method.make else method.settings
        key = result_key(made_by, method.references, method.tight, self.kind, self.number)
        return self.work / f"{self.kind}-{self.number}-{key}.json"


def strip(frames: Frames) -> Image:
    """Returns the frames of a picture, side by side."""
    return np.concatenate([frames[index] for index in MOMENTS], 1)
