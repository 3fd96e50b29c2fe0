"""Replaces measured sections and tables in the pages of the documentation."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

__all__ = ["put_section", "put_table", "sections"]


def put_table(page: Path, name: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Replaces the text between ``<!-- begin NAME ... -->`` and ``<!-- end NAME -->`` by a table.

    Raises:
        ValueError: the page does not have exactly one such place.
    """
    lines = [head, ["---"] * len(head), *rows]
    _replace(page, page.read_text(encoding="utf-8"), name, "\n".join(f"| {' | '.join(line)} |" for line in lines))


def put_section(page: Path, name: str, section: str) -> None:
    """Replaces the text between the marks by Markdown; adds the marks at the end of a page that has none."""
    text = page.read_text(encoding="utf-8") if page.exists() else ""
    if f"<!-- end {name} -->" not in text:
        text = f"{text.strip()}\n\n<!-- begin {name} -->\n<!-- end {name} -->\n".lstrip()
    _replace(page, text, name, section.strip())


def sections(text: str) -> str:
    """Returns the marked sections of a page, for a program that writes the rest of it."""
    return "\n\n".join(
        each[0] for each in re.finditer(r"<!-- begin (\w+)[^\n]*-->\n.*?<!-- end \1 -->", text, re.DOTALL)
    )


def _replace(page: Path, text: str, name: str, section: str) -> None:
    text, places = re.subn(
        rf"(<!-- begin {name}[^\n]*-->\n).*?(<!-- end {name} -->)",
        lambda found: f"{found[1]}\n{section}\n\n{found[2]}",
        text,
        flags=re.DOTALL,
    )
    if places != 1:
        raise ValueError(f"{page} has {places} places for {name}. Expected one.")
    page.write_text(text, encoding="utf-8")
