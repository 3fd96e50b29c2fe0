"""Results that are kept, so that a run can be stopped and continued, and the settings that runs are given."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from loraedit.files import write_json

__all__ = ["kept", "parse_settings"]


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
