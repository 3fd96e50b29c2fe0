"""``loraedit batch``: many edits, with a live table."""

from __future__ import annotations

import json
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

from loraedit.cli.progress import LABELS, PhaseProgress

if TYPE_CHECKING:
    from loraedit.batch.board import Board

__all__ = ["batch"]

SHOWN_FAILURES = 5
SHOWN_RUNNING = 32


def batch(
    file: Annotated[Path, typer.Argument(help="The jobs: see docs/batches-and-clusters.md.", metavar="JOBS.TOML")],
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Work on a Ray cluster: HOST:PORT, ray://HOST:PORT, auto, or local.  [default: this machine, no Ray]",
        ),
    ] = None,
    gpus_per_job: Annotated[
        float, typer.Option(help="The share of a GPU that a job has for itself, up to 1; 0 works on CPUs.")
    ] = 1.0,
    retries: Annotated[
        int, typer.Option(help="How often a job is tried again that fails, or whose worker dies.", min=0, max=100)
    ] = 2,
    json_output: Annotated[bool, typer.Option("--json", help="Print one JSON object at the end.")] = False,
) -> None:
    """Do all jobs of a file; the same command again does what is missing."""
    from loraedit.batch import run_batch

    console = Console(stderr=True)
    table = _LiveTable(console)
    try:
        with PhaseProgress(console, 2.0) as progress:
            prepared = lambda done, total: progress("check", done, total, "")  # noqa: E731
            with redirect_stdout(sys.stderr):  # where Ray tells of nodes and workers that are gone
                result = run_batch(file, ray, gpus_per_job, retries, prepared, table)
    except KeyboardInterrupt:
        sys.stderr.write("loraedit: stopped. Run the same command again to continue.\n")
        raise typer.Exit(130) from None
    finally:
        table.close()
    failures = result.board.failures()
    if json_output:
        why = {line.name: line.why for line in failures}
        typer.echo(json.dumps({"counts": result.board.counts, "failed": why, **result.places}))
    else:
        _tell(console, result.board, result.places)
    if failures:
        raise typer.Exit(1)


def _tell(console: Console, board: Board, places: dict[str, str]) -> None:
    counts, seconds = board.counts, time.monotonic() - board.began
    console.print(f"{counts['done']} of {len(board.lines)} jobs are done, after {seconds:.0f} s.", highlight=False)
    for line in board.failures():
        console.print(f"  {line.name} failed: {line.why}", highlight=False, soft_wrap=True, markup=False)
    for place in places.values():
        console.print(f"  {place}", highlight=False, soft_wrap=True, markup=False)


class _LiveTable:
    """Shows how a batch stands, from the first news on; to those who do not look at a terminal, nothing."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live: Live | None = None

    def __call__(self, board: Board) -> None:
        """Bring it up to date."""
        if not self._console.is_terminal:
            return
        if self._live is None:
            self._live = Live(console=self._console, auto_refresh=False, transient=True)
            self._live.start()
        self._live.update(_picture(board), refresh=True)

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._live is not None:
            self._live.stop()


def _picture(board: Board) -> RenderableType:
    """The jobs under way, what failed of late, and the counts."""
    table = Table("job", "worker", "doing", "steps", "s", "try", title_justify="left")
    for line in list(board.running.values())[:SHOWN_RUNNING]:
        steps = f"{line.done}/{line.total}" if line.total else ""
        seconds = f"{time.monotonic() - line.since:.0f}"
        phase = LABELS.get(line.phase, line.phase)
        table.add_row(*(Text(each) for each in (line.name, line.worker, phase, steps, seconds, str(line.tries))))
    failures = [Text(f"{line.name}: {line.why}", "red") for line in board.failures()[-SHOWN_FAILURES:]]
    counts = ", ".join(f"{number} {state}" for state, number in board.counts.items())
    left = board.counts["waiting"] + board.counts["running"]
    minutes = (time.monotonic() - board.began) / max(1, board.ended) * left / 60
    about = f", about {minutes:.0f} min left" if board.ended and left else ""
    return Group(table, *failures, Text(f"{counts}{about}"))
