"""Measures on nano how the cost of training grows with frames, area, rank and steps; writes a plot and a table.

    python -m benchmarks.cost [--work .cache/cost] [--page docs/benchmark.md] [--plot docs/benchmark/cost.png]

Every point is kept as soon as it is measured, so the run can be stopped and continued. The exponent is that of the
power law through the points: 1 is linear. Attention grows with the square of the tokens, so the exponents of frames and
area rise from 1 to 2 as it dominates; that of steps should be 1, and that of rank close to 0.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from benchmarks.keeping import code_of, result_key
from benchmarks.speed.work import CPU, make_work
from benchmarks.tables import put_section
from loraedit.training import Stage, train

AXES = {
    "latent frames": (5, 9, 17, 33),
    "latent cells per frame": (64, 144, 256, 576),
    "rank": (4, 8, 16, 32),
    "steps": (5, 10, 20, 40),
}
USUAL = {"latent frames": 9, "latent cells per frame": 144, "rank": 16, "steps": 7}
WARM_UP = 2


def seconds(of: dict[str, int], whole: bool) -> float:
    """Returns the median seconds of a training step, or (``whole``) the seconds of all steps together."""
    side = int(of["latent cells per frame"] ** 0.5)
    work = make_work("nano", of["latent frames"], side, of["steps"] + WARM_UP)
    settings = work.training.model_copy(update={"rank": of["rank"]})
    times: list[float] = []
    expert = work.family.experts[0]
    with tempfile.TemporaryDirectory() as folder:
        train(
            work.family, expert, work.family.load_transformer(expert, CPU), Stage([work.sample], [1]), settings,
            Path(folder) / "state", lambda *_: times.append(time.thread_time()), CPU,
        )  # fmt: skip
    taken = np.diff(times)[WARM_UP - 1 :]
    return float(taken.sum()) if whole else statistics.median(taken.tolist())


def measure(kept: Path) -> dict[str, dict[str, float]]:
    """Returns seconds by axis and value; measures only what is not in the file yet."""
    found: dict[str, dict[str, float]] = json.loads(kept.read_text()) if kept.exists() else {}
    for axis, values in AXES.items():
        for value in values:
            if str(value) not in found.setdefault(axis, {}):
                found[axis][str(value)] = seconds({**USUAL, axis: value}, axis == "steps")
                print(axis, value, f"{found[axis][str(value)]:.4f} s", flush=True)
                kept.parent.mkdir(parents=True, exist_ok=True)
                kept.write_text(json.dumps(found))
    return found


def exponent(points: dict[str, float]) -> float:
    """Returns the exponent of the power law through the points."""
    return float(np.polyfit(np.log([float(value) for value in points]), np.log(list(points.values())), 1)[0])


def draw(found: dict[str, Any], path: Path) -> None:
    figure = Figure(figsize=(12, 3.2), dpi=110, layout="constrained")
    for place, (axis, points) in zip(figure.subplots(1, len(found)), found.items(), strict=True):
        values = [float(value) for value in points]
        place.loglog(values, list(points.values()), "o-")
        unit = "seconds" if axis == "steps" else "seconds per step"
        place.set(title=f"exponent {exponent(points):.2f}", xlabel=axis, ylabel=unit)
        place.set_xticks(values, [f"{value:g}" for value in values], minor=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Software": None})


def section(found: dict[str, Any], plot: str) -> str:
    rows = []
    for axis, points in found.items():
        taken = ", ".join(f"{value:.3f}" for value in points.values())
        rows.append(f"| {axis} | {', '.join(points)} | {taken} | {exponent(points):.2f} |")
    return "\n".join([
        "## What a training step costs", "",
        "CPU seconds of a training step on nano in one thread, with one value changed at a time. The row *steps* gives "
        "the seconds of all steps together. The exponent is that of the power law through the points: 1 is linear. "
        "`python -m benchmarks.cost` writes this section.", "",
        "| | values | seconds | exponent |", "|---|---|---|---|", *rows, "", f"![cost]({plot})", "",
    ])  # fmt: skip


def argument_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path(".cache/cost"))
    parser.add_argument("--page", type=Path)
    parser.add_argument("--plot", type=Path, default=Path("docs/benchmark/cost.png"))
    return parser


def main() -> None:
    arguments = argument_parser().parse_args()
    torch.set_num_threads(1)
    found = measure(arguments.work / f"{result_key(code_of(__file__))}.json")
    draw(found, arguments.plot)
    print(json.dumps({axis: round(exponent(points), 2) for axis, points in found.items()}))
    if arguments.page is not None:
        put_section(arguments.page, "cost", section(found, f"benchmark/{arguments.plot.name}"))


if __name__ == "__main__":
    main()
