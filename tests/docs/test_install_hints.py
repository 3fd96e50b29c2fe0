"""Messages say how to install an extra as the documentation does: from a checkout, since no index has the package."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
PLACES = [*(ROOT / "src").rglob("*.py"), *(ROOT / "docs").glob("*.md"), ROOT / "README.md"]


def test_every_hint_names_an_extra_of_the_checkout() -> None:
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    hints = {found for path in PLACES for found in re.findall(r"pip install (?:-e )?'(.+?)\]'", path.read_text())}
    assert {hint.removeprefix(".[") for hint in hints} <= set(known)
    assert {".[quant", ".[gguf", ".[web"} <= hints
