"""Writes the page of the results."""

from __future__ import annotations

from collections.abc import Sequence

from scripts.gpu_day.bench import MODEL
from scripts.gpu_day.results import FINISHED, Line, latest
from scripts.gpu_day.stage import Stage

__all__ = ["page"]

HEAD = f"""# Measured on GPUs

{{state}}

The model is {MODEL} at its true size with random weights. These prove speed, memory and gradients, not
quality. `python -m scripts.gpu_day` writes this page; do not edit it.

## Run it

One GPU with 80 GB or more and 64 GB of host memory. No network, no checkpoint.

    python -m scripts.gpu_day --plan-only --planned plans.json
    python -m scripts.gpu_day --planned plans.json --results results.jsonl --minutes 12
    python -m scripts.gpu_day --results results.jsonl --page docs/gpu.md
    python -m scripts.gpu_day --results results.jsonl --refit

The first command needs no GPU and takes minutes, so run it ahead, with the same versions of the libraries. The second
runs the stages below in their order, each in a process of its own with a time limit, and writes a line as soon as a
figure is known. Run it again to continue; `--stages NAME ...` chooses stages and `--again` repeats them. The last two
write this page, and fit the share of its published speed that `loraedit plan` expects of this GPU.

`python -m scripts.gpu_day --tiny` runs every stage on small versions of the same classes, on any machine. Train nano
(`pretrain/README.md`) before, if both are to run on one day.

## Stages
"""

NONE = "No GPU has run this yet. The stages are proven at tiny size on a CPU, in the tests."


def page(stages: Sequence[Stage], lines: Sequence[Line]) -> str:
    """Returns the page in Markdown.

    Args:
        stages: all stages in their order.
        lines: results at true size.
    """
    cards = list(dict.fromkeys(line["card"] for line in lines if line["card"]))
    state = f"Measured on {' and '.join(cards)}." if cards else NONE
    parts = [HEAD.format(state=state), _stage_table(stages)]
    return "\n".join([*parts, *(_card_section(card, stages, lines) for card in cards)])


def _stage_table(stages: Sequence[Stage]) -> str:
    rows = [f"| `{each.name}` | {each.limit_s:g} | {each.about} | {each.holds_if} |" for each in stages]
    return "\n".join(["| stage | s at most | measures | holds if |", "|---|---|---|---|", *rows, ""])


def _card_section(card: str, stages: Sequence[Stage], lines: Sequence[Line]) -> str:
    own = [line for line in latest(lines) if line["card"] in (card, "")]
    versions = ", ".join(dict.fromkeys(line["torch"] for line in own))
    names = [stage.name for stage in stages]
    own.sort(key=lambda line: names.index(line["stage"]))
    rows = [_row(line) for line in own if line["measure"] != FINISHED]
    missing = [name for name in names if name not in {line["stage"] for line in own}]
    tail = [f"Not run: {', '.join(f'`{name}`' for name in missing)}.", ""] if missing else []
    head = [f"## {card}", "", f"torch {versions}.", "", "| stage | measure | measured | planned | holds |"]
    return "\n".join([*head, "|---|---|---|---|---|", *rows, "", *tail])


def _row(line: Line) -> str:
    measured, planned = (_amount(line[name], line["unit"]) for name in ("value", "planned"))
    note = f" ({line['note']})" if line["note"] else ""
    holds = {True: "yes", False: "**no**", None: ""}[line["holds"]]
    return f"| `{line['stage']}` | {line['measure']}{note} | {measured} | {planned} | {holds} |"


def _amount(value: float | None, unit: str) -> str:
    if value is None:
        return ""
    number = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}" if not unit else f"{value:.3g}"
    return f"{number} {unit}".strip()
