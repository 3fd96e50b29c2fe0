"""Progress in the terminal: one bar per phase, with the time left; or, for programs, lines of JSON."""

from __future__ import annotations

import importlib
import json
import time
from types import TracebackType
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import TimeRemainingColumn as TimeLeft

__all__ = ["JsonProgress", "PhaseProgress", "quiet_libraries"]

LABELS = {
    "plan": "Measuring", "download": "Downloading", "read": "Reading the clip", "mask": "Making the mask",
    "prepare": "Following the edit",
    "preview": "Preview",
    "encode": "Encoding", "train": "Training the LoRA", "sample": "Generating", "decode": "Decoding",
    "compose": "Composing",
}  # fmt: skip


class PhaseProgress:
    """A callable for :data:`loraedit.editing.Progress`; use it as a context manager.

    Args:
        wait_s: the bars show only once so many seconds have passed, so that what is quick stays quiet.
    """

    def __init__(self, console: Console, wait_s: float = 0.0) -> None:
        columns = (
            TextColumn("{task.description:<18}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
            TextColumn("left"), TimeLeft(), TextColumn("{task.fields[note]}"),
        )  # fmt: skip
        self._bars = Progress(*columns, console=console)
        self._tasks: dict[str, TaskID] = {}
        self._wait_s, self._began, self._shown = wait_s, time.monotonic(), False

    def __enter__(self) -> PhaseProgress:
        """Show the bars, or begin to wait."""
        self._began = time.monotonic()
        self._show_if_due()
        return self

    def _show_if_due(self) -> None:
        if not self._shown and time.monotonic() - self._began >= self._wait_s:
            self._bars.start()
            self._shown = True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the terminal as it was."""
        if self._shown:
            self._bars.stop()

    def __call__(self, phase: str, done: int, total: int, note: str) -> None:
        """Move the phase's bar; a phase seen for the first time gets one."""
        self._show_if_due()
        if phase not in self._tasks:
            self._tasks[phase] = self._bars.add_task(LABELS.get(phase, phase), total=total, note="")
        task = self._tasks[phase]
        current = next(bar for bar in self._bars.tasks if bar.id == task)
        if total == 1 and done == 1 and current.total:  # the end of a phase
            self._bars.update(task, completed=current.total, note=note or current.fields["note"])
        else:
            self._bars.update(task, completed=done, total=total, note=note)


class JsonProgress:
    """The same for programs: each call is one line of JSON, with the time in seconds since 1970 as ``at``."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __enter__(self) -> JsonProgress:
        """Nothing to show before the first call."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing to put back."""

    def __call__(self, phase: str, done: int, total: int, note: str) -> None:
        """Write one line."""
        event = {"phase": phase, "done": done, "total": total, "note": note, "at": round(time.time(), 2)}
        self._stream.write(json.dumps(event) + "\n")
        self._stream.flush()


def quiet_libraries(*names: str) -> None:
    """Keep the libraries' own bars and remarks off the terminal: ours show the progress."""
    for name in names:
        logging = importlib.import_module(f"{name}.utils.logging")
        logging.disable_progress_bar()
        logging.set_verbosity_error()
