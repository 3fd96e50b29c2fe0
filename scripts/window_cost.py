"""Counts what an edit costs by the size of its window, and writes it into the README and docs/training-and-sampling.md.

    python -m scripts.window_cost [--readme README.md] [--page docs/training-and-sampling.md]

The figures are those of ``loraedit plan``: the true architecture runs on fake tensors, without weights.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

from benchmarks.tables import put_section
from loraedit.families.skeleton import open_skeleton
from loraedit.planning import Plan, make_plan, work_of
from loraedit.settings import make_settings
from loraedit.types import Size

MODEL, NAME, FRAMES = "wan2.1-i2v-14b-480p", "Wan2.1 14B", 49
FRAME, QUARTER = Size(480, 832), Size(240, 416)
WINDOWS = (FRAME, Size(360, 624), QUARTER, Size(120, 208))
HEAD = ("window", "of the frame", "worked at", "tokens", "PFLOPs", "of the whole frame's")


def plans() -> dict[Size, Plan]:
    """Returns the plan of an edit with the paper's recipe for each window."""
    found = {}
    with open_skeleton(MODEL) as card:
        settings = make_settings({"model": MODEL, "recipe": "paper"}).resolved(card.recipe)
        for window in WINDOWS:
            work = work_of(card, settings, card.working_size(window, settings), [FRAMES], 0)
            found[window] = make_plan(card, MODEL, FRAME, work, None, settings.resources)
    return found


def page_section(found: Mapping[Size, Plan]) -> str:
    """Returns the table of all windows."""
    whole = found[FRAME].total_flops
    lines = [HEAD, ("---",) * len(HEAD)]
    for window, plan in found.items():
        area = window.height * window.width / (FRAME.height * FRAME.width)
        cost = f"{plan.total_flops / 1e15:.0f}", f"{100 * plan.total_flops / whole:.0f} %"
        lines.append((str(window), f"{100 * area:.0f} %", str(plan.work.shape.size), f"{plan.tokens:,}", *cost))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def readme_section(found: Mapping[Size, Plan]) -> str:
    """Returns the sentence about a quarter of the frame."""
    whole, quarter = found[FRAME], found[QUARTER]
    return (
        f"For {NAME} and {FRAMES} frames of {FRAME}, `plan` gives a window of a quarter of the frame "
        f"1/{whole.total_flops / quarter.total_flops:.1f} of the\ncomputing of the whole frame: {quarter.tokens:,} "
        f"instead of {whole.tokens:,} tokens."
    )


def argument_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--readme", type=Path, default=Path("README.md"))
    parser.add_argument("--page", type=Path, default=Path("docs/training-and-sampling.md"))
    return parser


def main() -> None:
    """Counts all windows and writes the figures."""
    options = argument_parser().parse_args()
    found = plans()
    put_section(options.readme, "window", readme_section(found))
    put_section(options.page, "window", page_section(found))


if __name__ == "__main__":
    main()
