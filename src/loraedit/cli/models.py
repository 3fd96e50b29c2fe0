"""The table of known models, in the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from loraedit.families.inventory import Found, state_in_cache
from loraedit.families.known import known_models

__all__ = ["model_rows", "show_models"]

WIDTH = 150
"""Columns of the table."""


def model_rows() -> list[dict[str, Any]]:
    """Every known model as JSON values: what it is, how large, and what of it is in the Hub's cache."""
    rows = []
    for model in known_models():
        here = state_in_cache(model)
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
                "folder": str(here.folder) if here else None,
                "problem": here.problem if here else None,
            }
        )
    return rows


def show_models(rows: Sequence[dict[str, Any]], found: Sequence[Found]) -> None:
    """Print the known models, and the folders that were looked at."""
    console = Console()
    console.width = max(console.width, WIDTH)  # a name that is cut is of no use
    table = Table("model (--model ID)", "parameters", "GB in bf16", "frames", "licence", "here", box=None)
    for row in rows:
        experts = [count for name, count in row["parameters"].items() if name.startswith("transformer")]
        size = f"{experts[0] / 1e9:.1f} B" + (f" x {len(experts)}" if len(experts) > 1 else "")
        here = "no" if row["folder"] is None else "incomplete" if row["problem"] else "yes"
        name = row["id"] + (" *" if row["single_file"] else "")
        table.add_row(name, size, f"{row['gigabytes_bfloat16']:.0f}", row["size"], row["licence"], here)
    console.print(table)
    console.print(
        "Parameters are the transformer's; GB are all weights'. * one file: give it as --transformer, with the rest of "
        "a Wan2.1 I2V model. --download fetches a model; nothing is fetched without it.",
        highlight=False,
    )
    for each in found:
        state = "ready" if each.problem is None else each.problem
        console.print(f"  {each.folder}: {state}", highlight=False, soft_wrap=True, markup=False)
