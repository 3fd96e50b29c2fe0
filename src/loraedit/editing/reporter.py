"""The reporter of an edit: progress for the caller, times, notes, the profile, and the log in the run folder."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from loraedit.editing.profiling import Profile
from loraedit.families.kept_weights import ComponentRead
from loraedit.types import OnStep, Progress

__all__ = ["Reporter"]


class Reporter:
    """Reports what an edit does, and adds up the time that it takes.

    Attributes:
        notes: sentences for the user.
        phase_seconds: the time spent in each phase.
        profile: the time spent in parts of the phases.
        current_phase: the phase that began last.

    Args:
        folder: the run folder, for ``log.jsonl``.
        progress: the caller's listener.
        notes: notes of earlier steps.
    """

    def __init__(self, folder: Path, progress: Progress, notes: Iterable[str] = ()) -> None:
        self.notes = list(notes)
        self.phase_seconds: dict[str, float] = {}
        self.profile = Profile()
        self.current_phase = "prepare"
        self._folder, self._progress, self._start = folder, progress, time.monotonic()

    @property
    def wall_seconds(self) -> float:
        """Seconds since the edit began."""
        return time.monotonic() - self._start

    def progress(self, phase: str, done: int, total: int, note: str = "") -> None:
        """Reports how far a phase is."""
        self._progress(phase, done, total, note)

    def on_step(self, phase: str) -> OnStep:
        """Returns a listener that reports steps of a phase that is neither timed nor logged."""
        return lambda done, total: self.progress(phase, done, total)

    @contextmanager
    def phase(self, name: str, part: int = 0, parts: int = 1) -> Iterator[OnStep]:
        """Times and logs a phase, or one of its parts.

        Yields:
            A listener for the steps of this part.
        """
        start, self.current_phase = time.monotonic(), name
        self.progress(name, part, parts)
        self.log(phase=name, event="start")
        try:
            with self.profile.phase(name):
                yield lambda done, total: self.progress(name, part * total + done, parts * total)
        finally:
            seconds = time.monotonic() - start
            self.phase_seconds[name] = self.phase_seconds.get(name, 0.0) + seconds
        self.log(phase=name, event="end", seconds=round(seconds, 3))
        self.progress(name, part + 1, parts)

    def component_read(self, read: ComponentRead) -> None:
        """Logs which components were read from the checkpoint."""
        seconds = round(read.seconds, 3)
        self.log(event="loaded", components=list(read.names), seconds=seconds, bytes=read.size_bytes)

    def log(self, **event: Any) -> None:
        """Appends one JSON line to ``RUN/log.jsonl``."""
        with (self._folder / "log.jsonl").open("a") as file:
            file.write(json.dumps({"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), **event}) + "\n")
