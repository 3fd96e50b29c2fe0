"""Write the table of known models into docs/models.md, between its marks.

python scripts/models_page.py
"""

from __future__ import annotations

import re
from pathlib import Path

from loraedit.families.known import KnownModel, known_models

PAGE = Path(__file__).parents[1] / "docs/models.md"
BEGIN, END = "<!-- models:begin", "<!-- models:end -->"


def row(model: KnownModel) -> str:
    """One line of the table."""
    experts = sum(name.startswith("transformer") for name in model.components)
    count = f"{model.transformer.parameters / 1e9:.1f} B{f' x {experts}' if experts > 1 else ''}"
    form = "one file" if model.single_file else "diffusers"
    size = f"{model.width}x{model.height}"
    return f"| `{model.id}` | {count} | {model.gigabytes:.0f} GB | {size} | {form} | {model.licence} |"


def page(text: str) -> str:
    """The page with its table made anew."""
    head = "| Hub id | parameters | in bfloat16 | frames | layout | licence |\n|---|---|---|---|---|---|"
    table = "\n".join([head, *(row(model) for model in known_models())])
    return re.sub(rf"({BEGIN}[^\n]*\n).*?({END})", lambda match: f"{match[1]}\n{table}\n\n{match[2]}", text, flags=re.S)


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
