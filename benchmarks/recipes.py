"""Compares recipes and their parts on nano, counts what the named recipes cost on a large model, and writes a page.

    python -m benchmarks.recipes [--cases N] [--workers N] [--work DIR] [--page docs/recipes.md]

Every result is keyed by everything that it depends on, so the run can be stopped and continued.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import Progress

import loraedit
from benchmarks.keeping import result_key
from benchmarks.propagation.cases import KINDS, PER_KIND, Case, make_case
from benchmarks.propagation.page import made_by, span, table
from benchmarks.propagation.rows import FROM_NOTHING
from benchmarks.propagation.run import start_worker
from benchmarks.propagation.scoring import score
from benchmarks.truth_metrics import Interval, paired_bootstrap
from loraedit.families.skeleton import open_skeleton
from loraedit.planning import make_plan, work_of
from loraedit.settings import RecipeName, make_settings
from loraedit.storage.files import write_json
from loraedit.types import Size

COLOURS = {
    "red": (200, 40, 40), "orange": (230, 130, 40), "yellow": (225, 210, 60), "green": (60, 160, 70),
    "cyan": (70, 190, 200), "blue": (50, 80, 200), "purple": (140, 60, 180), "pink": (230, 130, 180),
    "brown": (120, 80, 50), "white": (235, 235, 235), "grey": (128, 128, 128), "black": (25, 25, 25),
}  # fmt: skip
"""Names for mean colours, from which the cases get their captions."""


@dataclass(frozen=True)
class Row:
    """A recipe to measure.

    Attributes:
        settings: of :class:`loraedit.settings.EditSettings`, besides the captions.
        captions: whether source and edit are described.
        references: positions in the clip, in (0, 1], of edited frames besides the first.
        against: the row that this one changes.
    """

    settings: dict[str, Any]
    captions: bool = True
    references: tuple[float, ...] = ()
    against: str | None = None


PAPER, GUIDED, JOINT = "paper", "paper, guidance 3", "paper, two references"
_PAPER: dict[str, Any] = {"recipe": "paper", **FROM_NOTHING}
_GUIDED: dict[str, Any] = {**_PAPER, "guidance": 3.0}
_TWO = (0.5, 1.0)
BLANK = " "
"""A source prompt that says nothing; an empty one would be replaced by the prompt."""

ROWS: dict[str, Row] = {
    PAPER: Row(_PAPER),
    "paper, without text": Row({**_PAPER, "trigger": ""}, captions=False, against=PAPER),
    "paper, falling learning rate": Row({**_PAPER, "lr_schedule": "falling"}, against=PAPER),
    GUIDED: Row(_GUIDED, against=PAPER),
    "paper, guidance 3, source not described": Row({**_GUIDED, "trigger": "", "source_prompt": BLANK}, against=GUIDED),
    JOINT: Row(_PAPER, references=_TWO, against=PAPER),
    "paper, two references, one after the other": Row(
        {**_PAPER, "reference_training": "sequential"}, references=_TWO, against=JOINT
    ),
    "fast": Row({"recipe": "fast", **FROM_NOTHING}, against=PAPER),
}
"""The compared recipes. Without a prior, nano needs more and larger steps than its own recipe has."""

MODEL, FRAME, FRAMES = "wan2.1-i2v-14b-480p", Size(480, 832), 49
NAMED: tuple[RecipeName, ...] = ("paper", "fast", "propagate")

Scores = dict[str, dict[tuple[str, int], dict[str, float]]]


def described(case: Case) -> dict[str, str]:
    """Returns prompt and source prompt of a case, by the mean colours of object and background in the first frame."""
    inside, ground = case.region[0], ~case.mask[0]
    source, edited = (_colour(frames[0][inside]) for frames in (case.source, case.truth))
    over = f"over a {_colour(case.source[0][ground])} background"
    return {"prompt": f"a {edited} shape {over}", "source_prompt": f"a {source} shape {over}"}


def _colour(pixels: np.ndarray[Any, Any]) -> str:
    mean = pixels.reshape(-1, 3).mean(0)
    return min(COLOURS, key=lambda name: float(np.square(mean - COLOURS[name]).sum()))


def result_file(work: Path, kind: str, number: int, name: str) -> Path:
    """Returns the file for the scores of a row on a case."""
    row = ROWS[name]
    return work / f"{kind}-{number}-{result_key(row.settings, row.captions, row.references)}.json"


def carry_out(kind: str, number: int, name: str, path: Path) -> None:
    """Runs a row on a case, and writes its scores."""
    case, row, start = make_case(kind, number), ROWS[name], time.monotonic()
    last = len(case.source) - 1
    references = {index: case.truth[index] for index in {round(part * last) for part in row.references}}
    settings = {"store": str(store_of(path.parent)), **(described(case) if row.captions else {}), **row.settings}
    result = loraedit.edit(case.source, case.truth[0], case.mask, references=references, **settings)
    seconds = round(time.monotonic() - start, 2)
    write_json(path, {**score(result.clip.frames, case), "steps": len(result.losses), "seconds": seconds})


def store_of(work: Path) -> Path:
    """Returns the store through which rows share the LoRAs that they have in common."""
    return Path(tempfile.gettempdir()) / f"recipes-store-{work.resolve().name}"


def run_all(work: Path, cases: int, workers: int) -> Scores:
    """Runs what has no result yet; returns scores by row and case, for the cases that all rows have.

    Args:
        work: the folder of the results.
        cases: cases of each kind.
        workers: processes; 0 only reads existing results.
    """
    every = [(kind, number, name) for number in range(cases) for kind in KINDS for name in ROWS]
    paths = {each: result_file(work, *each) for each in every}
    missing = {each: path for each, path in paths.items() if not path.exists() and workers}
    with (
        Progress() as progress,
        ProcessPoolExecutor(max(workers, 1), get_context("spawn"), initializer=start_worker) as pool,
    ):
        bar = progress.add_task("recipes", total=len(every), completed=len(every) - len(missing))
        for future in as_completed([pool.submit(carry_out, *each, path) for each, path in missing.items()]):
            future.result()
            progress.advance(bar)
    whole = [(kind, number) for number in range(cases) for kind in KINDS]
    whole = [case for case in whole if all(paths[*case, name].exists() for name in ROWS)]
    return {name: {case: json.loads(paths[*case, name].read_text()) for case in whole} for name in ROWS}


def above(scores: Scores, name: str, base: str) -> Interval:
    """Returns mean and 95 % interval of a row's PSNR minus that of another on the same cases."""
    return paired_bootstrap([scores[name][case]["psnr"] - scores[base][case]["psnr"] for case in scores[base]])


def quality_table(scores: Scores) -> str:
    """Returns the table of all rows with their quality and steps."""
    rows = []
    for name, row in ROWS.items():
        found = scores[name]
        values = {each: float(np.mean([case[each] for case in found.values()])) for each in ("psnr", "nearer", "steps")}
        gained = [row.against, span(above(scores, name, row.against))] if row.against else ["", ""]
        rows.append([
            name, f"{values['steps']:.0f}", f"{values['psnr']:.2f}", f"{100 * values['nearer']:.0f} %", *gained,
        ])  # fmt: skip
    return table(["recipe", "training steps", "PSNR, dB", "nearer to truth", "against", "gain over it, dB"], rows)


def cost_table() -> str:
    """Returns the table of a large model's FLOPs per edit by each named recipe."""
    rows, totals = [], {}
    with open_skeleton(MODEL) as card:
        for name in NAMED:
            settings = make_settings({"model": MODEL, "recipe": name}).resolved(card.recipe)
            work = work_of(card, settings, card.working_size(FRAME, settings), [FRAMES], 0)
            totals[name] = make_plan(card, MODEL, FRAME, work, None, settings.resources).total_flops
            share = totals[name] / totals["paper"]
            steps = [str(settings.steps), str(settings.sampling_steps), f"{settings.area:g}"]
            rows.append([f"`{name}`", *steps, f"{totals[name]:.3g}", f"{share:.2f}"])
    return table(["recipe", "training steps", "sampling steps", "area", "FLOPs", "of the paper's"], rows)


def page(scores: Scores) -> str:
    """Returns the page in Markdown."""
    return f"""# What the recipes do and cost

`make recipes` writes this page; do not edit it by hand. {made_by()}

## Quality, on nano

{len(scores[PAPER])} of the cases of `benchmarks/propagation`, in which the true result is known. Captions name the mean
colours of object and background. Intervals are 95 %, by a paired bootstrap over the cases. Rows named `paper` and
`fast` train {FROM_NOTHING["steps"]} steps at {FROM_NOTHING["lr"]:g}, which is nano's pace without its prior, and sample
as nano's card says unless a row says otherwise. What carrying keyframes gains, as `propagate` and nano's own recipe do,
is in [the benchmark](benchmark.md).

{quality_table(scores)}
nano is tiny and these clips are procedural. No large model has been measured.

## Cost, on a large model

An edit of {FRAMES} frames of {FRAME.width}x{FRAME.height} with {MODEL}, counted without weights. `fast` may stop
earlier than it counts here.

{cost_table()}"""


def argument_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=PER_KIND, help="cases of each kind")
    parser.add_argument("--workers", type=int, default=2, help="processes; 0 only reads existing results")
    parser.add_argument("--work", type=Path, default=Path(".cache/recipes"))
    parser.add_argument("--page", type=Path, default=None, help="write the tables to this page")
    return parser


def main() -> None:
    options = argument_parser().parse_args()
    scores = run_all(options.work, options.cases, options.workers)
    print(quality_table(scores))
    if options.page is not None:
        options.page.write_text(page(scores), encoding="utf-8")


if __name__ == "__main__":
    main()
