"""Results that are kept, so that a run can be stopped and continued, and the settings that runs are given."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import loraedit
from loraedit.families.card import NANO, read_card
from loraedit.storage.files import fingerprint, write_json

__all__ = ["kept", "parse_settings", "result_key"]

UNUSED = ("app", "batch", "nano", "report.py", "web")
"""Parts of the package on which no frame and no score depends; nano's weights are looked at by themselves."""
TABLES = ("export.py", "page.py", "rows.py", "run.py")
"""Parts of ``benchmarks.propagation`` on which no result depends: each is kept by its own settings."""


def result_key(*of: object) -> str:
    """What tells a result from all others: the code and weights that edits, cases and scores depend on, and ``of``.

    Args:
        of: settings, and where a benchmark's own code counts, its bytes.
    """
    return fingerprint(_code_key(), *of)


@cache
def _code_key() -> str:
    package, cases = Path(loraedit.__file__).parent, Path(__file__).parent / "propagation"
    files = [path for path in sorted(package.rglob("*.py")) if path.relative_to(package).parts[0] not in UNUSED]
    files += [path for path in sorted(cases.glob("*.py")) if path.name not in TABLES]
    card, priors = read_card(NANO), sorted((NANO / "prior").glob("*.safetensors"))
    return fingerprint(card.fingerprint(), card.recipe.model_dump(), *(path.read_bytes() for path in files + priors))


def kept(path: Path, make: Callable[[], Any]) -> Any:
    """What a JSON file holds; without the file, what is made now goes into it."""
    if not path.exists():
        write_json(path, make())
    return json.loads(path.read_text(encoding="utf-8"))


def parse_settings(texts: list[str]) -> dict[str, Any]:
    """``NAME=VALUE`` to settings; values are JSON where they can be."""
    settings = {}
    for text in texts:
        name, _, value = text.partition("=")
        try:
            settings[name] = json.loads(value)
        except json.JSONDecodeError:
            settings[name] = value
    return settings
