"""Writes the table of known models into docs/models-and-memory.md, between its marks.

python -m scripts.models_page
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.tables import put_table
from loraedit.families.known import KnownModel, known_models

PAGE = Path(__file__).parents[1] / "docs/models-and-memory.md"
HEAD = ("Hub id", "parameters", "in bfloat16", "frames", "layout", "licence")


def row(model: KnownModel) -> list[str]:
    """Returns one line of the table."""
    experts = sum(name.startswith("transformer") for name in model.components)
    count = f"{model.transformer.parameters / 1e9:.1f} B{f' x {experts}' if experts > 1 else ''}"
    form = "one file" if model.single_file else "diffusers"
    licence = f"[{model.licence}]({model.licence_url})"
    return [f"`{model.id}`", count, f"{model.gigabytes:.0f} GB", f"{model.width}x{model.height}", form, licence]


def write(page: Path) -> None:
    """Replaces the table in a page."""
    put_table(page, "models", HEAD, [row(model) for model in known_models()])


if __name__ == "__main__":
    write(PAGE)
