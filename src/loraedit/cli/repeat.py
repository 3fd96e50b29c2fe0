"""``loraedit repeat``: runs a finished edit again and compares."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from loraedit.cli.output import JsonOutput, ProgressJson, interruptible, print_json, print_line, show_result
from loraedit.cli.progress import load_libraries, show_progress

__all__ = ["repeat"]


def repeat(
    run: Annotated[Path, typer.Argument(help="The run folder of a finished edit.", metavar="RUN")],
    out: Annotated[
        Path | None, typer.Option(help="Where to write the result. It has no sound, and an even frame rate.")
    ] = None,
    new_run: Annotated[
        Path | None, typer.Option("--run", help="The new run folder.  [default: beside --out, or RUN-repeat]")
    ] = None,
    json_output: JsonOutput = False,
    progress_json: ProgressJson = False,
) -> None:
    """Run a finished edit again and compare the results.

    It gets a new run folder. The same versions of all packages give the same bytes.
    """
    from loraedit.runs.folder import check_run

    began, console = time.monotonic(), Console(stderr=True)
    check_run(run)
    from loraedit.editing.repeat import plan_repetition  # imports torch, so only after the run has been checked

    repetition = plan_repetition(run, out, new_run)
    with interruptible(), show_progress(console, progress_json) as progress:
        for note in repetition.differences:
            progress.message(note)
        load_libraries(progress)
        result, same = repetition.carry_out(progress)
    wall_s = time.monotonic() - began
    if json_output:
        print_json({
            **result.summary(), "wall_seconds": round(wall_s, 2), "same": same, "differences": repetition.differences,
        })  # fmt: skip
        return
    show_result(console, result.summary(), repetition.job.notes, wall_s)
    comparison = "equal those of the run, byte for byte" if same else "differ from those of the run"
    print_line(console, f"The frames and LoRAs {comparison}.")
