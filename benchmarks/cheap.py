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
from loraedit.evaluate.metrics import Interval, paired_bootstrap
from loraedit.planning import Shape, make_plan, open_skeleton, reference_flops, work_of
from loraedit.settings import PAPER, Recipe, make_settings
from loraedit.storage.files import write_json
from loraedit.types import Size

FULL, DEFAULT, LONGER, GREY, SHORT = (
    "full cost, the reference's recipe",
    "default of large models",
    "default, the reference's steps",
    "default, nothing carried",
    "the reference's method, the default's steps and windows",
)
OWN = "nano's own recipe"
RATE = 3e-3
"""Of nano without a prior, as in ``benchmarks.propagation``, where large models have the paper's."""


def _of(recipe: Recipe) -> dict[str, Any]:
    """A recipe of large models as settings of nano, which has a segment length of its own and reads no guidance."""
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
    "prior, until learned, at most 100 steps": {"steps": 100, "check_every": 5},
    "no prior, 60 steps": {**_of(Recipe()), "steps": 60},
}
"""What is learnt, and how long; settings by name."""

SAMPLING: dict[str, tuple[str, dict[str, Any]]] = {
    "10 steps, the reference's recipe": (FULL, {**RECIPES[FULL], "sampling_steps": 10}),
    "5 steps": (OWN, {"sampling_steps": 5}),
    "10 steps": (OWN, {"sampling_steps": 10}),
    "40 steps": (OWN, {"sampling_steps": 40}),
    "step cache at 0.05": (OWN, {"step_cache": 0.05}),
    "step cache at 0.2": (OWN, {"step_cache": 0.2}),
}
"""How it is sampled: the recipe that it is a change of, and settings, by name."""
EVERY = RECIPES | {name: settings for name, (_, settings) in SAMPLING.items()}

MODEL, FRAME, FRAMES = "wan2.1-i2v-14b-480p", Size(480, 832), 49

Scores = dict[str, dict[tuple[str, int], dict[str, float]]]


def result_file(work: Path, kind: str, number: int, name: str) -> Path:
    """Where the scores of a recipe on a case are kept."""
    return work / f"{kind}-{number}-{result_key(EVERY[name])}.json"


def carry_out(kind: str, number: int, name: str, path: Path) -> None:
    """Run a recipe on a case, and keep its scores."""
    case, start = make_case(kind, number), time.monotonic()
    result = loraedit.edit(case.source, case.truth[0], case.mask, **EVERY[name])
    seconds = round(time.monotonic() - start, 2)
    write_json(path, {**score(result.clip.frames, case), "steps": len(result.losses), "seconds": seconds})


def run_all(work: Path, cases: int, workers: int) -> Scores:
    """Carry out what has no result yet; scores by recipe and case, of the cases that all recipes have.

    Args:
        workers: processes; with none, what is there is read.
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
    """Mean and 95 % interval of the PSNR that a recipe has above another on the same cases."""
    return paired_bootstrap([scores[name][case]["psnr"] - scores[base][case]["psnr"] for case in scores[base]])


def quality_table(scores: Scores) -> str:
    """Every recipe with its quality and its steps."""
    rows = []
    for name in RECIPES:
        row = scores[name]
        values = {each: float(np.mean([case[each] for case in row.values()])) for each in ("psnr", "nearer", "steps")}
        rows.append([
            name, f"{values['steps']:.0f}", f"{values['psnr']:.2f}", f"{100 * values['nearer']:.0f} %",
            "" if name == FULL else span(above(scores, name, FULL)),
        ])  # fmt: skip
    return table(["recipe", "training steps", "PSNR, dB", "nearer to truth", "above full cost, dB"], rows)


def sampling_table(scores: Scores) -> str:
    """Every way of sampling beside the recipe that it is a change of."""
    rows = [[name, base, span(above(scores, name, base))] for name, (base, _) in SAMPLING.items()]
    return table(["sampling", "of", "above it, dB"], rows)


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
    recipe, count, whole = Recipe(), len(scores[FULL]), above(scores, DEFAULT, FULL)
    verdict = "above" if whole.low > 0 else "below" if whole.high < 0 else "not told apart from"
    prior = above(scores, "prior, 10 steps", "no prior, 60 steps")
    return f"""# What a cheaper recipe rests on

Made by `make cheap`; nothing here is written by hand.

## Cost

{MODEL}, {FRAMES} frames at {FRAME.width}x{FRAME.height}, against LoRA-Edit's own recipe ({PAPER.steps} training steps,
{PAPER.sampling_steps} sampling steps with guidance, the whole frame). The default recipe has {recipe.steps} training
steps, and {recipe.sampling_steps} sampling steps from noise level {recipe.strength} on. Encoding and decoding are
counted for ours alone.

{cost_table()}
## Quality

The same step counts and windows on nano, without its prior in the first five rows and in the last, {count} of the
cases of `benchmarks/propagation`; intervals are 95 %, by a paired bootstrap over the cases. The default shows the model
the edited frame, carried along the source's motion, and starts from it; the reference's method shows it grey.

{quality_table(scores)}
The default is {verdict} the full-cost recipe: {span(whole)} dB, and with nothing carried
{span(above(scores, GREY, FULL))} dB. Fewer steps alone change the default by
{span(above(scores, DEFAULT, LONGER))} dB; fewer steps and windows change the reference's method by
{span(above(scores, SHORT, FULL))} dB. nano is tiny and these clips are procedural: that the same holds for a
large model is an inference from this, not a measurement. `--recipe paper` is the full-cost one.

## Sampling

{sampling_table(scores)}
## The prior

With the prior and 10 steps against 60 steps without it, all else alike: {span(prior)} dB. Only nano brings a prior; a
large model starts from nothing.
"""


def argument_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=1, help="cases of each kind")
    parser.add_argument("--workers", type=int, default=2, help="processes; 0 reads what is there")
    parser.add_argument("--work", type=Path, default=Path(".cache/cheap"))
    parser.add_argument("--page", type=Path, default=None, help="write tables here")
    return parser


def main() -> None:
    options = argument_parser().parse_args()
    scores = run_all(options.work, options.cases, options.workers)
    print(quality_table(scores))
    if options.page is not None:
        options.page.write_text(page(scores), encoding="utf-8")


if __name__ == "__main__":
    main()
