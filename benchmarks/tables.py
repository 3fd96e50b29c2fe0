"""Sections and tables in a page of the documentation, made anew by the run that measures them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

__all__ = ["put_section", "put_table", "sections"]


def put_table(page: Path, name: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Replace what stands between ``<!-- begin NAME ... -->`` and ``<!-- end NAME -->`` by a table.

    Raises:
        ValueError: the page has no such place.
    """
    lines = [head, ["---"] * len(head), *rows]
    _replace(page, page.read_text(encoding="utf-8"), name, "\n".join(f"| {' | '.join(line)} |" for line in lines))


def put_section(page: Path, name: str, section: str) -> None:
    """Likewise by Markdown; a page that has no such place gets one at its end."""
    text = page.read_text(encoding="utf-8") if page.exists() else ""
    if f"<!-- end {name} -->" not in text:
        text = f"{text.strip()}\n\n<!-- begin {name} -->\n<!-- end {name} -->\n".lstrip()
    _replace(page, text, name, section.strip())


def sections(text: str) -> str:
    """The sections of a page with their marks, for whoever writes the rest anew."""
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
