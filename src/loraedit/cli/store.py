"""``loraedit store``: what is kept for other runs."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.console import Console

from loraedit.storage.lora_store import LIMIT_BYTES, open_store

__all__ = ["store"]


def store(
    place: Annotated[
        str | None, typer.Option("--store", metavar="DIR", help="The folder.  [default: as for edit]")
    ] = None,
    clear: Annotated[bool, typer.Option("--clear", help="Remove all of them; run folders keep theirs.")] = False,
    json_output: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Say what LoRAs are kept for other runs, and where; or remove them."""
    kept = open_store(place)
    removed = kept.clear() if clear else 0
    sizes = [size for _, size in kept.entries()]
    if json_output:
        found = {"folder": str(kept.folder) if kept.folder else None, "loras": len(sizes), "bytes": sum(sizes)}
        typer.echo(json.dumps({**found, "limit_bytes": LIMIT_BYTES, "removed": removed}))
        return
    text = "There is no store." if kept.folder is None else (
        f"{len(sizes)} LoRAs in '{kept.folder}', {sum(sizes) / 1e6:.0f} MB of at most {LIMIT_BYTES / 1e6:.0f} MB."
    )  # fmt: skip
    Console(stderr=True).print(
        f"{f'Removed {removed} LoRAs. ' if clear else ''}{text}", highlight=False, soft_wrap=True, markup=False
    )
