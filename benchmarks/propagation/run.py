"""Runs the benchmark, and writes its page.

    python -m benchmarks.propagation.run [--cases N] [--choices N] [--workers N] [--work DIR] [--page docs/benchmark.md]

Every result is keyed by everything that it depends on, so the run can be stopped and continued, and a change repeats
only the results that it affects.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from rich.progress import Progress, TimeElapsedColumn, TimeRemainingColumn

from benchmarks.propagation.cases import KINDS, PER_KIND, make_case
from benchmarks.propagation.rows import CHOICES, METHODS
from benchmarks.propagation.scoring import score
from benchmarks.propagation.task import Task, strip
from loraedit.cli.progress import quiet_libraries
from loraedit.storage.files import write_json
from loraedit.video import write_image

__all__ = ["main"]


def carry_out(task: Task) -> dict[str, Any]:
    """Runs a task, and writes its scores and picture."""
    case = make_case(task.kind, task.number)
    start = time.monotonic()
    frames = task.method.run(case, {})
    seconds = round(time.monotonic() - start, 2)
    scores = {**score(frames, case), "seconds": seconds}
    path = task.result_file()
    write_image(path.with_suffix(".png"), strip(frames))
    write_json(path, scores)
    return scores


def start_worker() -> None:
    """Limits a worker to one thread: two such workers are faster than one with two threads."""
    import cv2
    import torch

    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    os.nice(5)
    quiet_libraries("diffusers", "transformers")


def tasks(work: Path, per_kind: int, names: Iterable[str]) -> Iterator[Task]:
    """Yields the tasks case by case, so that a stopped run has complete cases."""
    for number in range(per_kind):
        for kind in KINDS:
            yield from (Task(kind, number, name, work) for name in names)


def run_all(every: list[Task], workers: int) -> None:
    """Runs the tasks that have no result yet."""
    missing = [task for task in every if not task.result_file().exists()]
    columns = (*Progress.get_default_columns()[:-1], TimeElapsedColumn(), TimeRemainingColumn())
    with (
        Progress(*columns) as progress,
        ProcessPoolExecutor(workers, get_context("spawn"), initializer=start_worker) as pool,
    ):
        bar = progress.add_task("benchmark", total=len(every), completed=len(every) - len(missing))
        futures = {pool.submit(carry_out, task): task for task in missing}
        for future in as_completed(futures):
            task, scores = futures[future], future.result()
            progress.print(f"{task.kind}-{task.number} {task.name}: {scores['psnr']:.2f} dB, {scores['seconds']:.0f} s")
            progress.advance(bar)


def argument_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=PER_KIND, help="cases of each kind")
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=[*METHODS, *CHOICES])
    parser.add_argument("--choices", type=int, default=1, help="cases of each kind for the choices; 0 skips them")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--work", type=Path, default=Path(".cache/propagation"))
    parser.add_argument("--page", type=Path, default=None, help="write tables, plots and pictures to this page")
    return parser


def main() -> None:
    options = argument_parser().parse_args()
    compared = list(tasks(options.work, options.cases, options.methods))
    chosen = list(tasks(options.work, options.choices, CHOICES))
    run_all([*compared, *chosen], options.workers)
    if options.page is not None:
        from benchmarks.propagation.page import write_page

        write_page(options.page, compared, chosen)


if __name__ == "__main__":
    main()
