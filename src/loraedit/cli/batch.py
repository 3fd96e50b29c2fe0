"""``loraedit batch``: runs many edits and shows a live table."""

from __future__ import annotations

import sys
import time
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from loraedit.cli.output import JsonOutput, interruptible, print_json, print_line
from loraedit.cli.phase_times import duration
from loraedit.cli.progress import LOG_EVERY_S, show_progress
from loraedit.phases import phase_label

if TYPE_CHECKING:
    from loraedit.batch.board import Board

__all__ = ["BatchDisplay", "batch"]

SHOWN_FAILURES = 5
SHOWN_RUNNING = 32


def batch(
    file: Annotated[Path, typer.Argument(help="The jobs; see docs/batches-and-clusters.md.", metavar="JOBS.TOML")],
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Run on a Ray cluster: HOST:PORT, ray://HOST:PORT, auto, or local.  [default: this machine, no Ray]",
        ),
    ] = None,
    gpus_per_job: Annotated[
        float, typer.Option(help="The share of a GPU for each job, up to 1. 0 runs on CPUs.")
    ] = 1.0,
    retries: Annotated[
        int, typer.Option(help="How often a job is repeated if it fails or its worker dies.", min=0, max=100)
    ] = 2,
    download: Annotated[
        bool, typer.Option("--download", help="Download models and captioners from the Hub before the jobs begin.")
    ] = False,
    json_output: JsonOutput = False,
) -> None:
    """Run all jobs of a file. The same command again runs only the jobs that are not done."""
    from loraedit.batch import run_batch

    console = Console(stderr=True)
    table = BatchDisplay(console)
    try:
        with interruptible(), show_progress(console) as progress, redirect_stdout(sys.stderr):  # for Ray's messages
            result = run_batch(file, ray, gpus_per_job, retries, progress.steps("check"), table, download)
    finally:
        table.close()
    failures = result.board.failures()
    if json_output:
        reasons = {line.name: line.why for line in failures}
        print_json({"counts": result.board.counts, "failed": reasons, **result.places})
    else:
        _show_result(console, result.board, result.places)
    if failures:
        raise typer.Exit(1)


def _show_result(console: Console, board: Board, places: dict[str, str]) -> None:
    counts, seconds = board.counts, time.monotonic() - board.began
    print_line(console, f"{counts['done']} of {len(board.lines)} jobs are done after {duration(seconds)}.")
    for line in board.failures():
        print_line(console, f"  {line.name} failed: {line.why}")
    for place in places.values():
        print_line(console, f"  {place}")


class BatchDisplay:
    """Shows the state of a batch: a live table in a terminal, one line every 30 s in a log."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live: Live | None = None
        self._last_line = time.monotonic()

    def __call__(self, board: Board) -> None:
        """Shows the present state."""
        if not self._console.is_terminal:
            if time.monotonic() - self._last_line >= LOG_EVERY_S:
                self._last_line = time.monotonic()
                print_line(self._console, _counts(board))
            return
        if self._live is None:
            self._live = Live(console=self._console, auto_refresh=False, transient=True)
            self._live.start()
        self._live.update(_table(board), refresh=True)

    def close(self) -> None:
        """Removes the table."""
        if self._live is not None:
            self._live.stop()


def _table(board: Board) -> RenderableType:
    """Returns the jobs that run, the latest failures, and the counts."""
    table = Table("job", "worker", "phase", "steps", "time", "try", title_justify="left")
    for line in list(board.running.values())[:SHOWN_RUNNING]:
        steps = f"{line.done}/{line.total}" if line.total else ""
        running = duration(time.monotonic() - line.since)
        cells = (line.name, line.worker, phase_label(line.phase), steps, running, str(line.tries))
        table.add_row(*(Text(cell) for cell in cells))
    failures = [Text(f"{line.name}: {line.why}", "red") for line in board.failures()[-SHOWN_FAILURES:]]
    return Group(table, *failures, Text(_counts(board)))


def _counts(board: Board) -> str:
    """Returns the number of jobs in each state, and the time left."""
    counts = ", ".join(f"{number} {state}" for state, number in board.counts.items())
    left = board.counts["waiting"] + board.counts["running"]
    seconds = (time.monotonic() - board.began) / max(1, board.ended) * left
    return counts + (f", about {duration(round(seconds))} left" if board.ended and left else "")
