"""Measures the quality of automatic masks on the cases of the propagation benchmark.

    python -m benchmarks.masks [--edit] [--kinds KIND ...] [--work FOLDER] [--page docs/masks.md]

Covered is the share of truly changed pixels inside the mask; area is the size of the mask relative to the true box.
With --edit, the first case of each kind is also edited, once with the true box as its mask and once with the automatic
mask. Both results are compared with the truth in the same places, in all frames but the first: where the edited object
is visible, and in the whole true box. Edits are kept by their mask, so the run can be stopped and continued.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import torch
from rich.console import Console
from rich.table import Table

import loraedit
from benchmarks import truth_metrics
from benchmarks.keeping import code_of, kept, result_key
from benchmarks.propagation.cases import KINDS, PER_KIND, Case, make_case
from benchmarks.tables import put_table
from loraedit.cli.progress import quiet_libraries
from loraedit.tracking import mask_from_edit
from loraedit.types import Clip, Frames, Mask

ALLOWED_DB = 0.5
"""How much worse an edit with an automatic mask may be."""


# ---- masks -------------------------------------------------------------------------------------------------------


def made_mask(case: Case) -> Mask:
    """Returns the automatic mask of a case's edited first frame."""
    return np.stack(list(mask_from_edit(Clip(case.source, Fraction(10)), {0: case.truth[0]})))


def measure(case: Case) -> tuple[float, float]:
    """Returns the share of changed pixels that the mask covers, and its area relative to the true box."""
    mask = made_mask(case)
    changed = (case.source != case.truth).any(-1)
    return float(mask[changed].mean()), float(mask.sum() / case.mask.sum())


COVER = ("kind", "covered, mean", "covered, worst", "area, mean", "area, worst")


def cover_lines(kinds: list[str]) -> Iterator[list[str]]:
    """Yields a row for each kind of case, and one for all."""
    figures: list[tuple[float, float]] = []
    for kind in kinds:
        for number in range(PER_KIND):
            figures.append(measure(make_case(kind, number)))
            print(f"{kind}-{number:<3} covered {figures[-1][0]:6.1%}  area {figures[-1][1]:.2f}", flush=True)
        yield cover_line(kind, figures[-PER_KIND:])
    yield cover_line(f"all {len(figures)}", figures)


def cover_line(name: str, figures: list[tuple[float, float]]) -> list[str]:
    covered, area = np.array(figures).T
    return [name, f"{covered.mean():.1%}", f"{covered.min():.1%}", f"{area.mean():.2f}", f"{area.max():.2f}"]


# ---- edits -------------------------------------------------------------------------------------------------------


def quality(case: Case, frames: Frames) -> dict[str, float]:
    """Returns the PSNR of an edit to the truth in dB, by where it is measured."""
    places = {"thing": case.region, "box": case.mask}
    return {name: truth_metrics.psnr(frames[1:], case.truth[1:], place[1:]) for name, place in places.items()}


def edited(case: Case, mask: Mask, made: bool, work: Path) -> dict[str, float]:
    """Returns the quality of an edit, from disk or measured now."""
    path = work / f"{case.name}-{result_key(code_of(__file__), mask.shape, np.packbits(mask).tobytes())}.json"

    def make() -> dict[str, float]:
        given = None if made else mask
        return quality(case, loraedit.edit(Clip(case.source, Fraction(10)), case.truth[0], given).clip.frames)

    found: dict[str, float] = kept(path, make)
    return found


EDITS = (
    "case", "object, true box (dB)", "object, automatic mask",
    "in the box, true box (dB)", "in the box, automatic mask", "within",
)  # fmt: skip


def edit_lines(kinds: list[str], work: Path) -> Iterator[list[str]]:
    """Yields a row for the first case of each kind, and one for their means."""
    rows = []
    for kind in kinds:
        case = make_case(kind, 0)
        boxed, made = edited(case, case.mask, False, work), edited(case, made_mask(case), True, work)
        rows.append([boxed["thing"], made["thing"], boxed["box"], made["box"]])
        yield edit_line(case.name, rows[-1])
    yield edit_line("mean", np.mean(rows, axis=0).tolist())


def edit_line(name: str, row: list[float]) -> list[str]:
    thing, thing_made, box, box_made = row
    fine = min(thing_made - thing, box_made - box) >= -ALLOWED_DB
    columns = f"{thing:.2f}", _compared(thing_made, thing), f"{box:.2f}", _compared(box_made, box)
    return [name, *columns, "yes" if fine else "NO"]


def _compared(value: float, usual: float) -> str:
    return f"{value:.2f} ({value - usual:+.2f})"


def argument_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--edit", action="store_true", help="edit with both masks and compare the results")
    parser.add_argument("--kinds", nargs="*", default=list(KINDS), choices=KINDS, help="kinds of cases")
    parser.add_argument("--work", type=Path, default=Path(".cache/masks"))
    parser.add_argument("--page", type=Path, help="put the table into this page")
    return parser


def main() -> None:
    options = argument_parser().parse_args()
    quiet_libraries("diffusers", "transformers")
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    name, head = ("edits", EDITS) if options.edit else ("masks", COVER)
    table, lines = Table(*head), []
    for line in edit_lines(options.kinds, options.work) if options.edit else cover_lines(options.kinds):
        lines.append(line)
        table.add_row(*line)
        if options.edit:
            print(*line, sep="  ", flush=True)
    Console().print(table)
    if options.page:
        put_table(options.page, name, head, lines)


if __name__ == "__main__":
    main()
