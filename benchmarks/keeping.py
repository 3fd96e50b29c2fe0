"""Keeps results between runs of a benchmark, and parses the settings given to one."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import loraedit
from loraedit.families.card import NANO, read_card
from loraedit.storage.files import fingerprint, write_json

__all__ = ["code_of", "kept", "parse_settings", "result_key"]

UNUSED = ("batch", "cli", "mask_maker", "nano", "web")
"""Folders of the package that change no frame and no score. The weights of nano are fingerprinted separately."""
TABLES = ("export.py", "page.py", "rows.py", "run.py")
"""Modules of ``benchmarks.propagation`` that change no result: each result is keyed by its own settings."""


def result_key(*parts: object) -> str:
    """Returns a key that changes with all code and weights that edits, cases and scores depend on, and with ``parts``.

    Args:
        parts: settings, and ``code_of`` a benchmark whose own code matters.
    """
    return fingerprint(_code_key(), *parts)


@cache
def _code_key() -> str:
    package, cases = Path(loraedit.__file__).parent, Path(__file__).parent / "propagation"
    files = [path for path in sorted(package.rglob("*.py")) if path.relative_to(package).parts[0] not in UNUSED]
    files += [path for path in sorted(cases.glob("*.py")) if path.name not in TABLES]
    files.append(Path(__file__).with_name("truth_metrics.py"))
    card, priors = read_card(NANO), sorted((NANO / "prior").glob("*.safetensors"))
    code = [code_of(path) for path in files]
    return fingerprint(card.fingerprint(), card.recipe.model_dump(), code, *(path.read_bytes() for path in priors))


def code_of(path: str | Path) -> str:
    """Returns the code of a Python file without comments, docstrings and formatting, so that only code changes it."""
    tree = ast.parse(Path(path).read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        for name in ("body", "orelse", "finalbody"):
            statements = getattr(node, name, None)
            if isinstance(statements, list):
                setattr(node, name, [each for each in statements if not _is_text(each)])
    return ast.dump(tree)


def _is_text(node: ast.stmt) -> bool:
    """Checks whether a statement is only a string: the docstring of a module, class, function or attribute."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def kept(path: Path, make: Callable[[], Any]) -> Any:
    """Returns the content of a JSON file; if there is no such file, calls ``make`` and writes its result first."""
    if not path.exists():
        write_json(path, make())
    return json.loads(path.read_text(encoding="utf-8"))


def parse_settings(texts: list[str]) -> dict[str, Any]:
    """Parses ``NAME=VALUE`` texts to settings. Values that are valid JSON are read as JSON, others as text."""
    settings = {}
    for text in texts:
        name, _, value = text.partition("=")
        try:
            settings[name] = json.loads(value)
        except json.JSONDecodeError:
            settings[name] = value
    return settings
