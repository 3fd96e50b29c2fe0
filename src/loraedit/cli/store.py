"""``loraedit store``: shows or clears the store of LoRAs."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from loraedit.cli.output import JsonOutput, print_json, print_line

__all__ = ["store"]


def store(
    place: Annotated[
        str | None, typer.Option("--store", metavar="DIR", help="The folder of the store.  [default: that of edit]")
    ] = None,
    clear: Annotated[bool, typer.Option("--clear", help="Remove its LoRAs. Run folders keep theirs.")] = False,
    json_output: JsonOutput = False,
) -> None:
    """Show or remove the LoRAs that are stored for later runs."""
    from loraedit.storage.lora_store import LIMIT_BYTES, open_store

    lora_store = open_store(place)
    removed = lora_store.clear() if clear else 0
    sizes = [size for _, size in lora_store.entries()]
    if json_output:
        folder = str(lora_store.folder) if lora_store.folder else None
        print_json({
            "folder": folder, "loras": len(sizes), "bytes": sum(sizes), "limit_bytes": LIMIT_BYTES, "removed": removed,
        })  # fmt: skip
        return
    text = "There is no store." if lora_store.folder is None else (
        f"{len(sizes)} LoRAs in '{lora_store.folder}', {sum(sizes) / 1e6:.0f} of at most {LIMIT_BYTES / 1e6:.0f} MB."
    )  # fmt: skip
    print_line(Console(stderr=True), f"Removed {removed} LoRAs. {text}" if clear else text)
