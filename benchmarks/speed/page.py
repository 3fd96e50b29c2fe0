"""Writes the section of a page that shows the results of the speed benchmark."""

from __future__ import annotations

from typing import Any

TITLES = {"train": "A training step", "sample": "A sampling step"}


def section(figures: list[dict[str, Any]]) -> str:
    """Returns Markdown: a table for each size and kind of step, and loraedit's share of the fastest other."""
    first = figures[0]
    lines = [
        "## Speed compared with other libraries",
        "",
        "All contenders do the same work in one process: nano's transformer, batch size 1, a LoRA of rank 16 on every "
        f"linear layer, encoded inputs, {first['threads']} thread ({first['processor']}). Figures are medians of "
        f"{first['rounds']} rounds in which all take turns. Ratios of time depend on the processor: the faster it "
        "multiplies matrices, the more the other operations count. The peak in sampling includes nano's weights, "
        f"{first['weights'] / 1e6:.1f} MB. `python -m benchmarks.speed.run` writes this section.",
    ]
    for each in figures:
        lines += _tables(each)
    return "\n".join(lines) + "\n\n"


def _tables(figures: dict[str, Any]) -> list[str]:
    lines = ["", "### Latents of {} x {} x {}".format(*figures["latents"])]
    for what, title in TITLES.items():
        rows = figures[what]
        ours = rows["loraedit"]
        name, other = min(((key, row) for key, row in rows.items() if key != "loraedit"), key=lambda x: x[1]["seconds"])
        lines += ["", f"| {title} | seconds | ours / theirs | peak MB | ours / theirs |", "|---|---|---|---|---|"]
        lines += [
            f"| {key} | {row['seconds']:.4f} | {ours['seconds'] / row['seconds']:.2f} "
            f"| {row['bytes'] / 1e6:.1f} | {ours['bytes'] / row['bytes']:.2f} |"
            for key, row in rows.items()
        ]
        lines += [
            "",
            f"Compared with the fastest of them, {name}: {ours['seconds'] / other['seconds']:.2f} of the time, "
            f"{ours['bytes'] / other['bytes']:.2f} of the memory.",
        ]
    return lines
