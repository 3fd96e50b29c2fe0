"""Measures what cheaper recipes cost in quality, on nano, and what they save on a large model.

    python -m benchmarks.cheap [--cases N] [--workers N] [--work FOLDER] [--page docs/cheap.md]

The cases are those of ``benchmarks.propagation``, N of each kind. Every recipe gets the source, the truth's first frame
and a loose mask. Results are kept per case, so the run can be stopped and continued.
"""

from __future__ import annotations

import argparse
import json
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import Progress

import loraedit
from benchmarks.keeping import result_key
from benchmarks.propagation.cases import KINDS, make_case
from benchmarks.propagation.page import span, table
from benchmarks.propagation.run import start_worker
from benchmarks.propagation.scoring import score
from benchmarks.truth_metrics import Interval, paired_bootstrap
from loraedit.families.skeleton import open_skeleton
from loraedit.planning import make_plan, work_of
from loraedit.settings import PAPER, Recipe, make_settings
from loraedit.storage.files import write_json
from loraedit.types import Size

FULL, DEFAULT, LONGER, GREY, SHORT = (
    "the paper's recipe",
    "default of large models",
    "default, the paper's steps",
    "default, nothing carried",
    "the paper's method, the default's steps and windows",
)
OWN = "nano's own recipe"
RATE = 3e-3
"""Learning rate of nano without a prior, as in ``benchmarks.propagation``; large models have that of the paper."""


def _of(recipe: Recipe) -> dict[str, Any]:
    """Converts a recipe of large models to settings of nano, which has its own segment length and uses no guidance."""
    settings = recipe.model_dump(exclude={"segment_frames", "guidance"})
    return {**settings, "lr": RATE * recipe.lr / PAPER.lr}


_STEPS = {"steps": PAPER.steps, "sampling_steps": PAPER.sampling_steps}
RECIPES: dict[str, dict[str, Any]] = {
    FULL: _of(PAPER),
    DEFAULT: _of(Recipe()),
    LONGER: {**_of(Recipe()), **_STEPS},
    GREY: {**_of(Recipe()), "fill": "grey", "restore_detail": False, "strength": 1.0},
    SHORT: {**_of(PAPER), **{name: getattr(Recipe(), name) for name in (*_STEPS, "crop")}},
    OWN: {},
    "prior, 0 steps": {"steps": 0},
    "prior, 10 steps": {"steps": 10},
    "prior, early stopping, at most 100 steps": {"steps": 100, "check_every": 5},
    "no prior, 60 steps": {**_of(Recipe()), "steps": 60},
}
"""The compared training recipes; settings by name."""

SAMPLING: dict[str, tuple[str, dict[str, Any]]] = {
    "10 steps, the paper's recipe": (FULL, {**RECIPES[FULL], "sampling_steps": 10}),
    "5 steps": (OWN, {"sampling_steps": 5}),
    "10 steps": (OWN, {"sampling_steps": 10}),
    "40 steps": (OWN, {"sampling_steps": 40}),
    "step cache at 0.05": (OWN, {"step_cache": 0.05}),
    "step cache at 0.2": (OWN, {"step_cache": 0.2}),
}
"""The compared ways of sampling: the recipe that each one modifies, and its settings, by name."""
EVERY = RECIPES | {name: settings for name, (_, settings) in SAMPLING.items()}

MODEL, FRAME, FRAMES = "wan2.1-i2v-14b-480p", Size(480, 832), 49

Scores = dict[str, dict[tuple[str, int], dict[str, float]]]


def result_file(work: Path, kind: str, number: int, name: str) -> Path:
    """Returns the file for the scores of a recipe on a case."""
    return work / f"{kind}-{number}-{result_key(EVERY[name])}.json"


def carry_out(kind: str, number: int, name: str, path: Path) -> None:
    """Runs a recipe on a case, and writes its scores."""
    case, start = make_case(kind, number), time.monotonic()
    result = loraedit.edit(case.source, case.truth[0], case.mask, **EVERY[name])
    seconds = round(time.monotonic() - start, 2)
    write_json(path, {**score(result.clip.frames, case), "steps": len(result.losses), "seconds": seconds})


def run_all(work: Path, cases: int, workers: int) -> Scores:
    """Runs what has no result yet; returns scores by recipe and case, for the cases that all recipes have.

    Args:
        work: the folder of the results.
        cases: cases of each kind.
        workers: processes; 0 only reads existing results.
    """
    every = [(kind, number, name) for number in range(cases) for kind in KINDS for name in EVERY]
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
    whole = [case for case in whole if all(paths[*case, name].exists() for name in EVERY)]
    return {name: {case: json.loads(paths[*case, name].read_text()) for case in whole} for name in EVERY}


def above(scores: Scores, name: str, base: str) -> Interval:
    """Returns mean and 95 % interval of a recipe's PSNR minus that of another on the same cases."""
    return paired_bootstrap([scores[name][case]["psnr"] - scores[base][case]["psnr"] for case in scores[base]])


def quality_table(scores: Scores) -> str:
    """Returns the table of all recipes with their quality and steps."""
    rows = []
    for name in RECIPES:
        row = scores[name]
        values = {each: float(np.mean([case[each] for case in row.values()])) for each in ("psnr", "nearer", "steps")}
        rows.append([
            name, f"{values['steps']:.0f}", f"{values['psnr']:.2f}", f"{100 * values['nearer']:.0f} %",
            "" if name == FULL else span(above(scores, name, FULL)),
        ])  # fmt: skip
    return table(["recipe", "training steps", "PSNR, dB", "nearer to truth", "gain over the paper's recipe, dB"], rows)


def sampling_table(scores: Scores) -> str:
    """Returns the table of all ways of sampling, each against the recipe that it modifies."""
    rows = [[name, base, span(above(scores, name, base))] for name, (base, _) in SAMPLING.items()]
    return table(["sampling", "modifies", "gain over it, dB"], rows)


def cost_table() -> str:
    """Returns the table of a large model's FLOPs per edit, as ``loraedit plan --compare-recipes`` counts them."""
    rows = []
    with open_skeleton(MODEL) as card:
        settings = make_settings({"model": MODEL}).resolved(card.recipe)
        whole_px = FRAME.height * FRAME.width
        paper = make_settings({"recipe": "paper"}).resolved(card.recipe)
        work = work_of(card, paper, FRAME, [FRAMES], whole_px, 0)
        reference = make_plan(card, MODEL, FRAME, work, None, paper.resources).total_flops
        quarter = Size(FRAME.height // 2, FRAME.width // 2)
        for what, window in (("whole frame", FRAME), ("a quarter, with `--area 0.25`", quarter)):
            work = work_of(card, settings, window, [FRAMES], min(whole_px, window.height * window.width), 0)
            plan = make_plan(card, MODEL, FRAME, work, None, settings.resources)
            total = plan.total_flops
            rows.append([what, f"{total:.3g}", f"{reference:.3g}", f"1 / {reference / total:.1f}"])
    return table(["edit zone", "FLOPs", "FLOPs of the paper's recipe", "share"], rows)


def page(scores: Scores) -> str:
    """Returns the page in Markdown."""
    recipe, count, whole = Recipe(), len(scores[FULL]), above(scores, DEFAULT, FULL)
    verdict = "better than" if whole.low > 0 else "worse than" if whole.high < 0 else "as good as"
    prior = above(scores, "prior, 10 steps", "no prior, 60 steps")
    return f"""# What cheaper recipes cost

`make cheap` writes this page; do not edit it by hand.

## Cost

The table counts an edit of {FRAMES} frames of {FRAME.width}x{FRAME.height} with {MODEL}. The paper's recipe has
{PAPER.steps} training steps and {PAPER.sampling_steps} sampling steps with guidance, always on the whole frame. The
default recipe has {recipe.steps} training steps and {recipe.sampling_steps} sampling steps, which start at noise level
{recipe.strength}. Encoding and decoding count for the default only. A window around a small edit is scaled up to the
model's full working size, so an edit of a quarter of the frame costs as much as the whole frame unless `--area` is
given.

{cost_table()}
## Quality

The same numbers of steps and the same windows on nano, with {count} of the cases of `benchmarks/propagation`. The first
five rows and the last one run without nano's prior. Intervals are 95 %, by a paired bootstrap over the cases. The
default shows the model the edited frame, carried along the motion of the source, and starts sampling from it; the
paper's method shows the model grey instead.

{quality_table(scores)}
The default is {verdict} the paper's recipe, by {span(whole)} dB; without carried frames the difference is
{span(above(scores, GREY, FULL))} dB. Fewer steps alone change the default by {span(above(scores, DEFAULT, LONGER))} dB.
Fewer steps and windows change the paper's method by {span(above(scores, SHORT, FULL))} dB. nano is tiny and these clips
are procedural. No large model was measured; that the same holds for one is an assumption. `--recipe paper` selects the
paper's recipe.

## Sampling

{sampling_table(scores)}
## The prior

10 steps from the prior differ from 60 steps without it by {span(prior)} dB. Only nano has a prior; large models start
without one.
"""


def argument_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=1, help="cases of each kind")
    parser.add_argument("--workers", type=int, default=2, help="processes; 0 only reads existing results")
    parser.add_argument("--work", type=Path, default=Path(".cache/cheap"))
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
