"""What the commands of edits print: messages, the result, and errors."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from loraedit.cli.help_panels import OUTPUT
from loraedit.cli.phase_times import duration

__all__ = [
    "JsonOutput",
    "ProgressJson",
    "fail",
    "interruptible",
    "print_json",
    "print_line",
    "show_profile",
    "show_result",
]

LABELS = {
    "out": "Result", "frames": "Lossless frames", "sheet": "Contact sheet", "side_by_side": "Side by side",
    "preview": "Preview", "loss_curve": "Loss curve", "profile": "Profile", "run": "Everything else",
}  # fmt: skip

JsonOutput = Annotated[bool, typer.Option("--json", help="Print one JSON object at the end.", rich_help_panel=OUTPUT)]
ProgressJson = Annotated[
    bool,
    typer.Option("--progress-json", help="Write progress as lines of JSON to standard error.", rich_help_panel=OUTPUT),
]


def print_line(console: Console, text: str) -> None:
    """Prints a line as it is: no colours, no markup, no wrapping."""
    console.print(text, highlight=False, soft_wrap=True, markup=False)


def print_json(value: dict[str, Any]) -> None:
    """Prints a JSON object on standard output."""
    typer.echo(json.dumps(value))


def show_result(console: Console, summary: dict[str, Any], notes: Sequence[str], wall_s: float) -> None:
    """Prints how an edit went and where its files are.

    Args:
        summary: of the result.
        notes: the notes that were shown before; they are the first notes of the summary.
        wall_s: how long the whole command took.
    """
    reused = f" (reused: {', '.join(summary['reused'])})" if summary["reused"] else ""
    exact = "equals the source, bit for bit" if summary["outside_exact"] else "differs from the source"
    print_line(console, f"Done in {duration(wall_s)}{reused}. Outside the mask every frame {exact}.")
    steps, seconds = summary["saved"]["train_steps"], summary["saved"]["seconds"]
    if steps:
        time_saved = f" and about {duration(seconds)}" if seconds >= 1 else ""
        print_line(console, f"The reused LoRAs saved {steps} training steps{time_saved}.")
    for note in summary["notes"][len(notes) :]:
        print_line(console, note)
    files = [(label, summary[name]) for name, label in LABELS.items() if name in summary]
    files += [("LoRA", path) for loras in summary.get("loras", ()) for path in loras.values()]
    for label, path in files:
        print_line(console, f"  {label + ':':17}{path}")


def show_profile(console: Console, rows: Sequence[tuple[str, str, float, int]]) -> None:
    """Prints the time of each phase and of its parts."""
    table, total = Table("Phase", "Within", "Seconds", "Share", "Calls"), sum(row[2] for row in rows)
    for phase, part, seconds, calls in rows:
        table.add_row(phase, part, f"{seconds:.2f}", f"{seconds / total:.0%}", str(calls))
    console.print(table)


@contextmanager
def interruptible() -> Iterator[None]:
    """Ends the command with exit code 130 when the user presses Ctrl+C."""
    try:
        yield
    except KeyboardInterrupt:
        raise typer.Exit(fail("stopped. Run the same command again to continue.", 130)) from None


def fail(message: str, code: int) -> int:
    """Writes an error as one line on standard error; returns the exit code."""
    sys.stderr.write("loraedit: " + " ".join(message.split()) + "\n")
    return code
