"""``loraedit lora``: shows, converts and exports LoRA files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from loraedit.cli.output import JsonOutput, print_json, print_line

__all__ = ["lora_app"]

lora_app = typer.Typer(help="Show, convert and export LoRA files.", no_args_is_help=True, rich_markup_mode=None)

Format = Annotated[str, typer.Option("--format", help="The format to write: comfyui, diffusers or musubi (kohya).")]
Dtype = Annotated[str, typer.Option(help="The precision to write: keep (the file's own), fp32, bf16 or fp16.")]


@lora_app.command()
def show(
    file: Annotated[Path, typer.Argument(help="A LoRA file in any supported format.")],
    json_output: JsonOutput = False,
) -> None:
    """Show what a LoRA file holds: rank, scale, layers, base model, metadata."""
    from loraedit.lora.export import describe

    facts = describe(file)
    if json_output:
        print_json(facts)
        return
    for name, text in _rows(facts):
        line = f"  {name + ':':19}{text}"
        typer.echo("".join(letter if letter.isprintable() else "?" for letter in line))  # metadata can hold anything


@lora_app.command()
def convert(
    file: Annotated[Path, typer.Argument(help="A LoRA file in any supported format.")],
    out: Annotated[Path, typer.Argument(help="The .safetensors file to write.")],
    format_: Format,
    dtype: Dtype = "keep",
) -> None:
    """Convert a LoRA file to another format."""
    _write(file, out, format_, dtype)


@lora_app.command()
def export(
    run: Annotated[Path, typer.Argument(metavar="RUN_OR_FILE", help="The run folder of an edit, or a LoRA file.")],
    out: Annotated[Path, typer.Option(help="The .safetensors file to write.")],
    format_: Format,
    dtype: Dtype = "keep",
) -> None:
    """Write the LoRA of a finished edit for another program."""
    _write(run, out, format_, dtype)


def _write(source: Path, out: Path, format_: str, dtype: str) -> None:
    from loraedit.lora.export import export

    console = Console(stderr=True)
    with console.status("Writing"):
        written = export(source, out, format_, dtype)
    for path in written:
        print_line(console, f"  LoRA: {path}")


def _rows(facts: dict[str, Any]) -> list[tuple[str, str]]:
    def counted(name: str) -> str:
        return ", ".join(f"{layer} x{count}" if count > 1 else layer for layer, count in facts[name].items())

    def listed(name: str) -> str:
        return ", ".join(f"{value:g}" if isinstance(value, float) else str(value) for value in facts[name])

    rows = [
        ("Rank", listed("ranks")),
        ("Scale", f"{listed('scales')} (alpha / rank)"),
        ("Precision", f"{listed('precisions')}, {facts['bytes']:,} bytes"),
        ("Keys", f"{facts['first_key']}, ..."),
        ("Layers", counted("layers")),
        ("Whole differences", counted("whole_differences") or "none"),
        ("Base", facts["base"] or "not stated in the file"),
    ]
    return rows + [(f"[{name}]", json.dumps(value)[:400]) for name, value in facts["metadata"].items()]
