"""The section of a page that a run of the speed benchmark writes."""

from __future__ import annotations

from typing import Any

TITLES = {"train": "A training step", "sample": "A sampling step"}


def section(figures: list[dict[str, Any]]) -> str:
    """Markdown: a table for each size and kind of step, and ours as a share of the fastest other."""
    first = figures[0]
    lines = [
        "## Speed beside others",
        "",
        "The same work in one process: nano's transformer, batch 1, a LoRA of rank 16 on every linear, inputs encoded "
        f"beforehand for all, {first['threads']} thread ({first['processor']}); medians of "
        f"{first['rounds']} rounds in which all take turns. Ratios of time depend on the processor: the faster it "
        "multiplies matrices, the more the rest counts. Of the peak in sampling nano's weights, which nobody can do "
        f"without, are {first['weights'] / 1e6:.1f} MB. Made by `python -m benchmarks.speed.run`.",
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
            f"Against the fastest of them, {name}: {ours['seconds'] / other['seconds']:.2f} of the time, "
            f"{ours['bytes'] / other['bytes']:.2f} of the memory.",
        ]
    return lines
