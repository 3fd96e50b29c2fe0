"""``loraedit evaluate``: measures a finished edit."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from loraedit.cli.output import JsonOutput, print_json, print_line
from loraedit.cli.progress import quiet_libraries

__all__ = ["evaluate"]


def evaluate(
    run: Annotated[Path, typer.Argument(help="The run folder of a finished edit.", metavar="RUN")],
    image_encoder: Annotated[
        Path | None,
        typer.Option(
            help="The folder of a CLIP model in the layout of transformers, to measure the similarity to the source "
            "and to the edited frame."
        ),
    ] = None,
    json_output: JsonOutput = False,
) -> None:
    """Measure a finished edit and write a report page.

    The page is in the run folder and needs no network.
    """
    from loraedit.evaluate import evaluate_run

    console = Console(stderr=True)
    with console.status("Measuring"):
        if image_encoder is not None:
            quiet_libraries("transformers")
        evaluation = evaluate_run(run, image_encoder)
    if json_output:
        places = {"report": str(evaluation.report), "metrics_file": str(evaluation.file)}
        print_json({**places, "metrics": evaluation.metrics})
        return
    width = max(len(row.name) for row in evaluation.rows()) + 2
    for name, text in [*(row[:2] for row in evaluation.rows()), ("Report", str(evaluation.report))]:
        print_line(console, f"  {name + ':':{width}}{text}")
