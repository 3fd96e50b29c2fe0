"""Writes the tables of known models into docs/models-and-memory.md, between their marks.

python -m scripts.models_page
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.tables import put_section, put_table
from loraedit.families.known import KnownModel, known_models

PAGE = Path(__file__).parents[1] / "docs/models-and-memory.md"
HEAD = ("Hub id", "parameters", "in bfloat16", "frames", "layout", "licence")
SAMPLING_HEAD = ("model", "guidance", "flow shift", "steps", "solver", "frames per second", "source")


def row(model: KnownModel) -> list[str]:
    """Returns one line of the table."""
    experts = sum(name.startswith("transformer") for name in model.components)
    count = f"{model.transformer.parameters / 1e9:.1f} B{f' x {experts}' if experts > 1 else ''}"
    form = "one file" if model.single_file else "diffusers"
    licence = f"[{model.licence}]({model.licence_url})"
    return [f"`{model.id}`", count, f"{model.gigabytes:.0f} GB", f"{model.width}x{model.height}", form, licence]


def sampling_row(model: KnownModel) -> list[str]:
    """Returns one line of the table of sampling values."""
    card = model.card
    recipe, page = card.recipe, f"[{Path(card.source).name}]({card.source})"
    shift = f"{recipe.flow_shift:g}" if recipe.flow_shift else "own schedule"
    solver = "own" if recipe.scheduler == "model" else recipe.scheduler
    numbers = [f"{recipe.guidance:g}", shift, str(recipe.sampling_steps), solver, f"{card.frame_rate:g}"]
    return [model.name, *numbers, page]


def sampling_section() -> str:
    """Returns the table of sampling values, with a list of what to know about them."""
    lines = [SAMPLING_HEAD, ["---"] * len(SAMPLING_HEAD), *map(sampling_row, known_models())]
    table = [f"| {' | '.join(line)} |" for line in lines]
    about: dict[str, list[str]] = {}
    for model in known_models():
        if model.note:
            about.setdefault(model.note, []).append(model.name)
    return "\n".join([*table, "", *(f"- {', '.join(names)}: {note}" for note, names in about.items())])


def write(page: Path) -> None:
    """Replaces the tables in a page."""
    put_table(page, "models", HEAD, [row(model) for model in known_models()])
    put_section(page, "sampling", sampling_section())


if __name__ == "__main__":
    write(PAGE)
