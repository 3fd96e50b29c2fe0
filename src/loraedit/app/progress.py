"""Progress in the terminal: one bar per phase, with the time left."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import TimeRemainingColumn as TimeLeft

__all__ = ["PhaseProgress"]

LABELS = {
    "encode": "Encoding", "train": "Training the LoRA", "sample": "Generating", "decode": "Decoding",
    "compose": "Composing",
}  # fmt: skip


class PhaseProgress:
    """A callable for :data:`loraedit.editing.Progress`; use it as a context manager."""

    def __init__(self, console: Console) -> None:
        columns = (
            TextColumn("{task.description:<18}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
            TextColumn("left"), TimeLeft(), TextColumn("{task.fields[note]}"),
        )  # fmt: skip
        self._bars = Progress(*columns, console=console)
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> PhaseProgress:
        """Show the bars."""
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the terminal as it was."""
        self._bars.stop()

    def __call__(self, phase: str, done: int, total: int, note: str) -> None:
        """Move the phase's bar; a phase seen for the first time gets one."""
        if phase not in self._tasks:
            self._tasks[phase] = self._bars.add_task(LABELS.get(phase, phase), total=total, note="")
        task = self._tasks[phase]
        current = next(bar for bar in self._bars.tasks if bar.id == task)
        if total == 1 and done == 1 and current.total:  # the end of a phase
            self._bars.update(task, completed=current.total, note=note or current.fields["note"])
        else:
            self._bars.update(task, completed=done, total=total, note=note)
