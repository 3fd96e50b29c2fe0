"""The section of a page that a run of the speed benchmark writes."""

from __future__ import annotations

from typing import Any

TITLES = {"train": "A training step", "sample": "A sampling step"}


def section(figures: dict[str, Any]) -> str:
    """Markdown: a table for each kind of step, and ours as a share of the fastest other."""
    frames, height, width = figures["latents"]
    lines = [
        "## Speed beside others",
        "",
        f"The same work in one process: nano's transformer, latents of {frames} x {height} x {width}, batch 1, a LoRA "
        f"of rank 16 on every linear, inputs encoded beforehand for all, {figures['threads']} thread; medians of "
        f"{figures['rounds']} rounds in which all take turns. Made by `python -m benchmarks.speed.run`.",
    ]
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
    return "\n".join(lines) + "\n\n"
