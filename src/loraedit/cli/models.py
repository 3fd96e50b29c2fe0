"""``loraedit models``: lists the supported models, and the models on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from loraedit.cli.output import JsonOutput, print_json, print_line

if TYPE_CHECKING:
    from loraedit.families.inventory import Found

__all__ = ["models"]

WIDTH = 150
"""Columns of the table."""

SAMPLING = {"sampling_steps", "guidance", "scheduler", "flow_shift"}
"""Settings that a model's authors publish."""


def models(
    folders: Annotated[
        list[Path] | None, typer.Argument(help="Further checkpoint folders, or folders that hold some.")
    ] = None,
    json_output: JsonOutput = False,
) -> None:
    """List the supported models and the models on this machine."""
    from loraedit.families.inventory import find_models

    rows, found = _model_rows(), find_models(folders or [])
    if json_output:
        places = [{"folder": str(place.folder), "problem": place.problem} for place in found]
        print_json({"models": rows, "folders": places})
    else:
        _show_models(rows, found)


def _model_rows() -> list[dict[str, Any]]:
    """Returns every supported model as JSON values: size, licence, sampling, and its state in the Hub's cache."""
    from loraedit.families.inventory import state_in_cache
    from loraedit.families.known import known_models

    rows = []
    for model in known_models():
        here, card = state_in_cache(model), model.card
        rows.append(
            {
                "id": model.id,
                "name": model.name,
                "family": model.family,
                "licence": model.licence,
                "licence_url": model.licence_url,
                "size": f"{model.width}x{model.height}",
                "parameters": {name: part.parameters for name, part in model.components.items()},
                "gigabytes_bfloat16": round(model.gigabytes, 2),
                "single_file": model.single_file,
                "frame_rate": card.frame_rate,
                "sampling": card.recipe.model_dump(include=SAMPLING),
                "source": card.source,
                "folder": str(here.folder) if here else None,
                "problem": here.problem if here else None,
            }
        )
    return rows


def _show_models(rows: Sequence[dict[str, Any]], found: Sequence[Found]) -> None:
    """Prints the supported models and the model folders of this machine."""
    console = Console()
    console.width = max(console.width, WIDTH)  # a model id that is cut cannot be copied
    table = Table("model (--model ID)", "parameters", "GB in bf16", "frames", "licence", "here", box=None)
    for row in rows:
        experts = [count for name, count in row["parameters"].items() if name.startswith("transformer")]
        size = f"{experts[0] / 1e9:.1f} B" + (f" x {len(experts)}" if len(experts) > 1 else "")
        here = "no" if row["folder"] is None else "incomplete" if row["problem"] else "yes"
        name = row["id"] + (" *" if row["single_file"] else "")
        table.add_row(name, size, f"{row['gigabytes_bfloat16']:.0f}", row["size"], row["licence"], here)
    console.print(table)
    console.print(
        "Parameters count the transformer; GB count all weights. Models marked * are one file: give the file as "
        "--transformer, with a Wan2.1 I2V model as --model. Models are downloaded only with --download.",
        highlight=False,
    )
    for place in found:
        print_line(console, f"  {place.folder}: {place.problem or 'ready'}")
