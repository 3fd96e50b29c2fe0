"""``loraedit lora``: show, convert and export LoRA files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

__all__ = ["lora_app"]

lora_app = typer.Typer(help="Show, convert and export LoRA files.", no_args_is_help=True, rich_markup_mode=None)

Format = Annotated[str, typer.Option("--format", help="comfyui, diffusers or musubi (kohya).")]
Dtype = Annotated[str, typer.Option(help="keep (what the file holds, exactly), fp32, bf16 or fp16.")]


@lora_app.command()
def show(
    file: Annotated[Path, typer.Argument(help="A LoRA file of any public kind.")],
    json_output: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """What a LoRA file holds: rank, scale, layers, base, metadata."""
    from loraedit.lora.export import describe

    facts = describe(file)
    if json_output:
        typer.echo(json.dumps(facts))
        return
    for name, text in _rows(facts):
        line = f"  {name + ':':19}{text}"
        typer.echo("".join(letter if letter.isprintable() else "?" for letter in line))  # the file's own words


@lora_app.command()
def convert(
    file: Annotated[Path, typer.Argument(help="A LoRA file of any public kind.")],
    out: Annotated[Path, typer.Argument(help="The .safetensors file to write.")],
    form: Format,
    dtype: Dtype = "keep",
) -> None:
    """Write a LoRA file in another form."""
    _write(file, out, form, dtype)


@lora_app.command()
def export(
    run: Annotated[Path, typer.Argument(metavar="RUN_OR_FILE", help="The run folder of an edit, or a LoRA file.")],
    out: Annotated[Path, typer.Option(help="The .safetensors file to write.")],
    form: Format,
    dtype: Dtype = "keep",
) -> None:
    """Write the LoRA of a finished edit for another program."""
    _write(run, out, form, dtype)


def _write(source: Path, out: Path, form: str, dtype: str) -> None:
    from loraedit.lora.export import export

    console = Console(stderr=True)
    with console.status("Writing"):
        written = export(source, out, form, dtype)
    for path in written:
        console.print(f"  LoRA: {path}", highlight=False, soft_wrap=True, markup=False)


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
        ("Base", facts["base"] or "the file does not say"),
    ]
    return rows + [(f"[{name}]", json.dumps(value)[:400]) for name, value in facts["metadata"].items()]
