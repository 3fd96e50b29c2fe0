"""Tables in a page of the documentation, made anew by the run that measures them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

__all__ = ["put_table"]


def put_table(page: Path, name: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Replace what stands between ``<!-- begin NAME ... -->`` and ``<!-- end NAME -->``.

    Raises:
        ValueError: the page has no such place.
    """
    lines = [head, ["---"] * len(head), *rows]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    text, places = re.subn(
        rf"(<!-- begin {name}[^\n]*-->\n).*?(<!-- end {name} -->)",
        lambda found: f"{found[1]}\n{table}\n\n{found[2]}",
        page.read_text(encoding="utf-8"),
        flags=re.DOTALL,
    )
    if places != 1:
        raise ValueError(f"{page} has {places} places for the table {name}. Expected one.")
    page.write_text(text, encoding="utf-8")
