"""Shows progress: bars in a terminal, lines in a log, or lines of JSON for programs."""

from __future__ import annotations

import importlib
import json
import sys
import threading
import time
from types import TracebackType
from typing import TYPE_CHECKING, Self, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn
from rich.progress import Progress as Bars
from rich.table import Column

from loraedit.cli.phase_times import Clock, Phase, PhaseTimes, duration
from loraedit.phases import phase_label

if TYPE_CHECKING:
    from loraedit.types import OnStep

__all__ = [
    "BarProgress",
    "JsonProgress",
    "LogProgress",
    "Progress",
    "load_libraries",
    "quiet_libraries",
    "show_progress",
]

QUIET_S = 2.0
"""Commands that end within this time show no progress."""

LOG_EVERY_S = 30.0
"""A log gets a line this often while a phase goes on."""

TICK_S = 0.5
BAR_WIDTH = 14
"""Characters of a bar; with it, a line with a loss fits into 80 columns."""


class Progress:
    """The base of all displays: a callable for :data:`loraedit.types.Progress` and a context manager."""

    def __enter__(self) -> Self:
        """Starts the display."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends the display."""

    def __call__(self, phase: str, done: int, total: int, note: str) -> None:
        """Takes a progress event: ``done`` of ``total`` steps of a phase."""
        raise NotImplementedError

    def steps(self, phase: str) -> OnStep:
        """Returns a callback that reports the steps of one phase."""
        return lambda done, total: self(phase, done, total, "")

    def message(self, text: str) -> None:
        """Shows a message to the user."""
        raise NotImplementedError


class _TimedProgress(Progress):
    """A display for people, brought up to date by events and by a thread."""

    def __init__(self, console: Console, quiet_s: float, clock: Clock) -> None:
        self._console, self._clock, self._quiet_s = console, clock, quiet_s
        self._began = clock()
        self._times = PhaseTimes(clock)
        self._lock = threading.RLock()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._tick_until_closed, daemon=True)

    def __enter__(self) -> Self:
        """Starts the thread."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends the thread."""
        self._closed.set()
        self._thread.join()

    def message(self, text: str) -> None:
        """Shows a message to the user."""
        with self._lock:
            self._console.print(text, highlight=False, soft_wrap=True, markup=False)

    def tick(self) -> None:
        """Brings the display up to date."""
        raise NotImplementedError

    def _is_due(self) -> bool:
        return self._clock() - self._began >= self._quiet_s

    def _tick_until_closed(self) -> None:
        while not self._closed.wait(TICK_S):
            self.tick()


class BarProgress(_TimedProgress):
    """One bar per phase, for terminals from 80 columns.

    Args:
        console: the terminal.
        quiet_s: the bars appear only after this time.
        clock: the source of time.
    """

    def __init__(self, console: Console, quiet_s: float = QUIET_S, clock: Clock = time.monotonic) -> None:
        super().__init__(console, quiet_s, clock)
        self._bars = Bars(
            TextColumn("{task.description}"),
            BarColumn(BAR_WIDTH),
            MofNCompleteColumn(),
            TextColumn("{task.fields[time]}", table_column=Column(no_wrap=True, min_width=12)),
            TextColumn("{task.fields[note]}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis")),
            console=console,
        )
        self._rows: dict[str, TaskID] = {}
        self._shown = False

    def __call__(self, phase: str, done: int, total: int, note: str) -> None:
        """Moves the bar of a phase."""
        with self._lock:
            if phase == "preview" and note:
                self.message(f"Preview: {note}")
                return
            self._update(self._times.event(phase, done, total, note))
        self.tick()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leaves the bars as they are."""
        super().__exit__(kind, error, trace)
        if self._shown:
            self._bars.stop()

    def tick(self) -> None:
        """Shows the times that have changed."""
        with self._lock:
            self._times.pass_time()
            if self._times.current is not None:
                self._update(self._times.current)
            if not self._shown and self._rows and self._is_due():
                self._bars.start()
                self._shown = True

    def _update(self, phase: Phase) -> None:
        if phase.name not in self._rows:
            self._rows[phase.name] = self._bars.add_task(phase_label(phase.name), total=None, time="", note="")
        self._bars.update(
            self._rows[phase.name], completed=phase.done, total=phase.total, time=_time_of(phase), note=phase.note
        )


def _time_of(phase: Phase) -> str:
    """Returns the time left of a phase that goes on, and the time taken of one that has ended."""
    if phase.ended or phase.left_s is None:
        return duration(phase.seconds)
    return f"{duration(round(phase.left_s))} left"


class LogProgress(_TimedProgress):
    """Whole lines, for logs: one at the end of each phase, and one every 30 s while a phase goes on.

    Args:
        console: the log.
        quiet_s: lines are held back until this time has passed.
        clock: the source of time.
    """

    def __init__(self, console: Console, quiet_s: float = QUIET_S, clock: Clock = time.monotonic) -> None:
        super().__init__(console, quiet_s, clock)
        self._held: list[str] = []
        self._last_line = clock()

    def __call__(self, phase: str, done: int, total: int, note: str) -> None:
        """Takes an event; writes a line if it ends a phase."""
        with self._lock:
            if phase == "preview" and note:
                self._write(f"Preview: {note}")
                return
            before = self._times.phases.get(phase)
            had_ended = before is not None and before.ended
            present = self._times.event(phase, done, total, note)
            if present is not before:
                self._last_line = self._clock()
            if present.ended and not (present is before and had_ended):
                self._write(_end_of(present))
        self.tick()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Writes the lines of phases that never reported their end."""
        super().__exit__(kind, error, trace)
        if error is None:
            for phase in self._times.phases.values():
                if not phase.ended:
                    self._write(_end_of(phase))

    def tick(self) -> None:
        """Writes a line if a phase has gone on for long."""
        with self._lock:
            self._times.pass_time()
            phase = self._times.current
            if phase is not None and not phase.ended and self._clock() - self._last_line >= LOG_EVERY_S:
                self._write(_state_of(phase))
            if self._is_due():
                self._release()

    def _write(self, line: str) -> None:
        self._last_line = self._clock()
        self._held.append(line)
        if self._is_due():
            self._release()

    def _release(self) -> None:
        for line in self._held:
            self.message(line)
        self._held.clear()


def _end_of(phase: Phase) -> str:
    """Returns ``Training the LoRA: done in 12 s (loss 0.12)``."""
    return f"{phase_label(phase.name)}: done in {duration(phase.seconds)}{_in_brackets(phase.note)}"


def _state_of(phase: Phase) -> str:
    """Returns ``Training the LoRA: 12 of 35, about 3 min 05 s left (loss 0.12)``."""
    count = f"{phase.done} of {phase.total}" if phase.total > 1 else f"{duration(phase.seconds)} so far"
    left = "" if phase.left_s is None else f", about {duration(round(phase.left_s))} left"
    return f"{phase_label(phase.name)}: {count}{left}{_in_brackets(phase.note)}"


def _in_brackets(note: str) -> str:
    return f" ({note})" if note else ""


class JsonProgress(Progress):
    """Lines of JSON: one per event, with the time in seconds since 1970 as ``at``."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __call__(self, phase: str, done: int, total: int, note: str) -> None:
        """Writes one line."""
        event = {"phase": phase, "done": done, "total": total, "note": note, "at": round(time.time(), 2)}
        self._stream.write(json.dumps(event) + "\n")
        self._stream.flush()

    def message(self, text: str) -> None:
        """Writes a message as a line of text."""
        self._stream.write(text + "\n")
        self._stream.flush()


def show_progress(console: Console, as_json: bool = False) -> Progress:
    """Returns the display that fits the console: bars in a terminal, lines in a log, or JSON if asked for."""
    if as_json:
        return JsonProgress(sys.stderr)
    return BarProgress(console) if console.is_terminal and not console.is_dumb_terminal else LogProgress(console)


def load_libraries(progress: Progress) -> None:
    """Imports the libraries of the models as a phase of its own, since that can take long."""
    progress("load", 0, 1, "")
    importlib.import_module("loraedit.editing")
    quiet_libraries("diffusers", "transformers")
    progress("load", 1, 1, "")


def quiet_libraries(*names: str) -> None:
    """Keeps the progress bars and messages of libraries off the terminal."""
    for name in names:
        logging = importlib.import_module(f"{name}.utils.logging")
        logging.disable_progress_bar()
        logging.set_verbosity_error()
