"""What cheaper recipes cost in quality, on nano, and what they save on a large model.

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
from loraedit.config import Recipe, make_settings
from loraedit.evaluate.metrics import Interval, paired_bootstrap
from loraedit.files import write_json
from loraedit.planning import Shape, make_plan, open_skeleton, reference_flops, work_of
from loraedit.types import Size

FULL, CHEAP, SLOWER, CARRIED, OURS = (
    "full cost, the reference's recipe",
    "cheap",
    "cheap, the reference's learning rate",
    "cheap, edited frame carried",
    "nano's own recipe",
)
RATE = 3e-3
"""Of nano without a prior, as in ``benchmarks.propagation``."""
_PLAIN: dict[str, Any] = {"recipe": "paper", "sampling_steps": Recipe().sampling_steps, "lr": RATE}
_SLOWER: dict[str, Any] = {**_PLAIN, "steps": Recipe().steps, "crop": "auto"}
_CARRIED: dict[str, Any] = {**_SLOWER, "fill": "carry", "detail": True, "strength": 0.8, "edit_weight": 4.0, "looks": 6}
_PRIOR: dict[str, Any] = {"sampling_steps": Recipe().sampling_steps}

RECIPES: dict[str, dict[str, Any]] = {
    FULL: {**_PLAIN, "steps": 100, "sampling_steps": 30},
    CHEAP: {**_SLOWER, "lr": 3 * RATE},
    SLOWER: _SLOWER,
    CARRIED: _CARRIED,
    OURS: _PRIOR,
    "prior, 0 steps": {**_PRIOR, "steps": 0},
    "prior, 10 steps": {**_PRIOR, "steps": 10},
    "prior, until learned, at most 100 steps": {**_PRIOR, "steps": 100, "check_every": 5},
    "no prior, 60 steps": {**_CARRIED, "steps": 60},
}
"""Settings by name; "cheap" has the steps, the window and the factor on the rate of large models' default recipe."""

MODEL, FRAME, FRAMES = "wan2.1-i2v-14b-480p", Size(480, 832), 49

Scores = dict[str, dict[tuple[str, int], dict[str, float]]]


def result_file(work: Path, kind: str, number: int, name: str) -> Path:
    """Where the scores of a recipe on a case are kept."""
    return work / f"{kind}-{number}-{result_key(RECIPES[name])}.json"


def carry_out(kind: str, number: int, name: str, path: Path) -> None:
    """Run a recipe on a case, and keep its scores."""
    case, start = make_case(kind, number), time.monotonic()
    result = loraedit.edit(case.source, case.truth[0], case.mask, **RECIPES[name])
    seconds = round(time.monotonic() - start, 2)
    write_json(path, {**score(result.clip.frames, case), "steps": len(result.losses), "seconds": seconds})


def run_all(work: Path, cases: int, workers: int) -> Scores:
    """Carry out what has no result yet; scores by recipe and case, of the cases that all recipes have.

    Args:
        workers: processes; with none, what is there is read.
    """
    every = [(kind, number, name) for number in range(cases) for kind in KINDS for name in RECIPES]
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
    whole = [case for case in whole if all(paths[*case, name].exists() for name in RECIPES)]
    return {name: {case: json.loads(paths[*case, name].read_text()) for case in whole} for name in RECIPES}


def above(scores: Scores, name: str, base: str) -> Interval:
    """Mean and 95 % interval of the PSNR that a recipe has above another on the same cases."""
    return paired_bootstrap([scores[name][case]["psnr"] - scores[base][case]["psnr"] for case in scores[base]])


def quality_table(scores: Scores) -> str:
    """Every recipe with its quality and its steps."""
    rows = []
    for name, row in scores.items():
        values = {each: float(np.mean([case[each] for case in row.values()])) for each in ("psnr", "nearer", "steps")}
        rows.append([
            name, f"{values['steps']:.0f}", f"{values['psnr']:.2f}", f"{100 * values['nearer']:.0f} %",
            "" if name == FULL else span(above(scores, name, FULL)),
        ])  # fmt: skip
    return table(["recipe", "training steps", "PSNR, dB", "nearer to truth", "above full cost, dB"], rows)


def cost_table() -> str:
    """Operations of an edit of a large model, as ``loraedit plan --compare-reference`` counts them."""
    rows = []
    with open_skeleton(MODEL) as card:
        settings = make_settings({"model": MODEL}).resolved(card.recipe)
        whole_px = FRAME.height * FRAME.width
        reference = reference_flops(card, Shape(FRAMES, FRAME))
        for what, window in (("whole frame", FRAME), ("a quarter", Size(FRAME.height // 2, FRAME.width // 2))):
            work = work_of(card, settings, window, [FRAMES], min(whole_px, window.height * window.width), 0)
            plan = make_plan(card, MODEL, FRAME, work, None, settings.resources)
            total = plan.total_flops
            rows.append([what, f"{total:.3g}", f"{reference:.3g}", f"1 / {reference / total:.1f}"])
    return table(["edit zone", "FLOPs", "FLOPs of the reference's recipe", "share"], rows)


def page(scores: Scores) -> str:
    """The page in Markdown."""
    recipe, count = Recipe(), len(scores[FULL])
    cheap, prior = above(scores, CHEAP, FULL), above(scores, "prior, 10 steps", "no prior, 60 steps")
    verdict = "not below" if cheap.high >= 0 else "below"
    return f"""# What a cheaper recipe rests on

Made by `make cheap`; nothing here is written by hand.

## Cost

{MODEL}, {FRAMES} frames at {FRAME.width}x{FRAME.height}, the default recipe ({recipe.steps} training steps,
{recipe.sampling_steps} sampling steps with guidance) against LoRA-Edit's own (100 and 30, the whole frame). Encoding
and decoding are counted for ours alone.

{cost_table()}
## Quality

The same step counts and windows on nano, {count} of the cases of `benchmarks/propagation`; intervals are
95 %, by a paired bootstrap over the cases. "Cheap" has the paper's method (grey inside the mask, no prior), as the
default recipe of large models has.

{quality_table(scores)}
The cheap recipe is {verdict} the full-cost one: {span(cheap)} dB. nano is tiny and these clips are procedural: that a
large model needs as few steps is an inference from this, not a measurement. `--recipe paper` is the full-cost one.

## The prior

With the prior and 10 steps against 60 steps without it, all else alike: {span(prior)} dB. Only nano brings a prior; a
large model starts from nothing.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=1, help="cases of each kind")
    parser.add_argument("--workers", type=int, default=2, help="processes; 0 reads what is there")
    parser.add_argument("--work", type=Path, default=Path(".cache/cheap"))
    parser.add_argument("--page", type=Path, default=None, help="write tables here")
    options = parser.parse_args()
    scores = run_all(options.work, options.cases, options.workers)
    print(quality_table(scores))
    if options.page is not None:
        options.page.write_text(page(scores), encoding="utf-8")


if __name__ == "__main__":
    main()
