"""The report page: one HTML file that opens offline, loads nothing from a network and runs no script."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from html import escape
from typing import NamedTuple

__all__ = ["Row", "report_page"]

POLICY = "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'"
"""Content-Security-Policy: a browser loads only what the file itself contains, whatever a text in it says."""

STYLE = """
:root { color-scheme: light dark; --ink: #23262b; --soft: #646b75; --line: #e2e5ea; --paper: #fff; --ground: #f5f6f8; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e6ea; --soft: #9aa1ab; --line: #32363d; --paper: #1c1f24; --ground: #131518; }
}
* { box-sizing: border-box; }
body { margin: 0; padding: 2rem 1rem 4rem; background: var(--ground); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif; }
main { max-width: 60rem; margin: 0 auto; }
h1 { margin: 0 0 .25rem; font-size: 1.5rem; }
h2 { margin: 0 0 .75rem; font-size: 1.05rem; }
p { margin: 0 0 1rem; color: var(--soft); overflow-wrap: anywhere; }
section { margin: 1.25rem 0; padding: 1.25rem; border: 1px solid var(--line); border-radius: .75rem;
  background: var(--paper); }
video, img { display: block; max-width: 100%; height: auto; margin: 0 auto; border-radius: .4rem; }
video { width: 100%; max-height: 80vh; }
table { width: 100%; border-collapse: collapse; }
th, td { padding: .45rem .75rem .45rem 0; border-top: 1px solid var(--line); text-align: left; vertical-align: top;
  overflow-wrap: anywhere; }
tr:first-child > * { border-top: 0; }
th { font-weight: 500; }
td { font-variant-numeric: tabular-nums; }
td:not(:last-child) { white-space: nowrap; }
td + td { color: var(--soft); }
summary { cursor: pointer; font-weight: 600; }
details table { margin-top: .75rem; font-size: .9rem; }
@media (max-width: 40rem) {
  body { padding: 1rem .5rem 2rem; }
  section { padding: .9rem; }
  th, td { display: block; padding: 0; border: 0; }
  tr { display: block; padding: .5rem 0; border-top: 1px solid var(--line); }
  tr:first-child { border-top: 0; }
}
"""


class Row(NamedTuple):
    """A row of a table."""

    name: str
    value: str
    meaning: str = ""


def report_page(prompt: str, pictures: Mapping[str, bytes], measured: Sequence[Row], settings: Sequence[Row]) -> str:
    """Returns the page; the same arguments give the same text.

    Args:
        prompt: the prompt of the edit; may be empty.
        pictures: contents of ``side_by_side.mp4``, ``sheet.png`` and, if there is one, ``loss.png``. The page embeds
            them in base64, so it is a third larger than they are.
        measured: rows of the metrics.
        settings: rows of the settings.
    """
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>LoRA-Edit report</title>
<link rel="icon" href="data:,">
<style>{STYLE}</style>
</head>
<body>
<main>
<h1>LoRA-Edit report</h1>
<p>{escape(prompt) if prompt else "No prompt."}</p>
{_video(pictures["side_by_side.mp4"])}
{_section("Measures", _table(measured))}
{_section("Moments", _image(pictures["sheet.png"], "Frames of the source, the mask over it, and the result"))}
{_section("Training", _image(pictures["loss.png"], "Training loss by step")) if "loss.png" in pictures else ""}
<section><details><summary>Settings</summary>
{_table(settings)}
</details></section>
</main>
</body>
</html>
"""


def _section(title: str, content: str) -> str:
    return f"<section><h2>{escape(title)}</h2>\n{content}\n</section>"


def _video(content: bytes) -> str:
    label = "The source on the left, the result on the right"
    player = (
        f'<video controls autoplay loop muted playsinline aria-label="{label}" src="{_data("video/mp4", content)}">'
    )
    return _section("Source and result", f"{player}</video>")


def _image(content: bytes, alt: str) -> str:
    return f'<img alt="{escape(alt)}" src="{_data("image/png", content)}">'


def _table(rows: Sequence[Row]) -> str:
    lines = []
    for row in rows:
        meaning = f"<td>{escape(row.meaning)}</td>" if row.meaning else ""
        lines.append(f'<tr><th scope="row">{escape(row.name)}</th><td>{escape(row.value)}</td>{meaning}</tr>')
    return "<table>\n" + "\n".join(lines) + "\n</table>"


def _data(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{b64encode(content).decode()}"
