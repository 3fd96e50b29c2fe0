"""The index of a batch: one HTML file with small pictures, without network requests or scripts."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from html import escape
from typing import Any
from urllib.parse import quote

from loraedit.batch.board import Board, Line
from loraedit.evaluate.page import POLICY, STYLE
from loraedit.evaluate.run import MEASURES

__all__ = ["index_page"]

OWN_STYLE = """
main { max-width: 90rem; }
section { overflow-x: auto; }
table img { min-width: 8rem; margin: 0; }
.failed { color: #c0392b; }
"""
HEADS = ("Job", "Source and result", "State", "Tries", "Time", "Memory")


def index_page(title: str, board: Board, thumbs: Mapping[str, bytes]) -> str:
    """Returns the page; links lead to the reports in the batch's folder.

    Args:
        title: the batch's name.
        board: the state of the batch.
        thumbs: JPEGs by job name, embedded in the page.
    """
    measures = [name for name in MEASURES if any(name in line.record.get("metrics", {}) for line in _all(board))]
    heads = [*HEADS, *(MEASURES[name].label for name in measures)]
    rows = "\n".join(_row(line, thumbs.get(line.name), measures) for line in _all(board))
    counts = ", ".join(f"{number} {state}" for state, number in board.counts.items() if number)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<link rel="icon" href="data:,">
<style>{STYLE}{OWN_STYLE}</style>
</head>
<body>
<main>
<h1>{escape(title)}</h1>
<p>{escape(counts)}</p>
<section>
<table>
<thead><tr>{"".join(f'<th scope="col">{escape(head)}</th>' for head in heads)}</tr></thead>
<tbody>
{rows}
</tbody>
</table>
</section>
</main>
</body>
</html>
"""


def _all(board: Board) -> list[Line]:
    return list(board.lines.values())


def _row(line: Line, thumb: bytes | None, measures: list[str]) -> str:
    record, metrics = line.record, line.record.get("metrics", {})
    name = escape(line.name)
    if "report" in record:
        name = f'<a href="{escape(quote(str(record["report"])))}">{name}</a>'
    picture = ""
    if thumb is not None:
        picture = f'<img alt="{escape(line.name)}" src="data:image/jpeg;base64,{b64encode(thumb).decode()}">'
    state = f'<span class="{line.state}">{line.state}</span> {escape(line.why)}'
    seconds = f"{record['seconds']:.0f} s" if "seconds" in record else ""
    values = [MEASURES[each].form.format(metrics[each]) if each in metrics else "" for each in measures]
    cells = [picture, state, str(line.tries), seconds, _memory(record), *(escape(value) for value in values)]
    return f'<tr><th scope="row">{name}</th>' + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def _memory(record: Mapping[str, Any]) -> str:
    places = (("device_mib", "on the device"), ("host_mib", "on the host"))
    return ", ".join(f"{record[name] / 1024:.1f} GiB {where}" for name, where in places if name in record)
