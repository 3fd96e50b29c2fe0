"""Runs stages in processes of their own: a crash, a lack of memory or a time limit costs one stage."""

from __future__ import annotations

import multiprocessing
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from loraedit.cli.progress import quiet_libraries
from scripts.gpu_day.bench import TINY, TRUE, Bench, open_bench
from scripts.gpu_day.measuring import device_name
from scripts.gpu_day.results import FINISHED, append
from scripts.gpu_day.stage import Finding, Stage
from scripts.gpu_day.stages import STAGES

__all__ = ["SERVER", "Request", "carry_out", "plan_each", "record", "run_each"]

SERVER: Any = multiprocessing.get_context("forkserver")
"""Starts processes that have not touched the device."""


@dataclass(frozen=True)
class Request:
    """What to measure on.

    Attributes:
        scale: ``true``, or ``tiny`` for small versions of the same classes.
        device: where to measure; None is the best device of this machine.
        results: file of the results.
        planned: file of the plans.
    """

    scale: Literal["true", "tiny"]
    device: str | None
    results: Path
    planned: Path


Work = Callable[[str, Request], None]
"""Does something with the stage of a name; a function of a module."""


def run_each(names: Sequence[str], request: Request, seconds: float, work: Work) -> list[str]:
    """Carries out stages one after the other, each in a process and within its limit.

    Args:
        names: the stages.
        request: what to measure on.
        seconds: time for all of them together.
        work: carries out one of them.

    Returns:
        The stages that were left out because no time was left.
    """
    end = time.monotonic() + seconds
    for index, name in enumerate(names):
        limit_s = min(STAGES[name].limit_s, end - time.monotonic())
        if limit_s <= 0:
            return list(names[index:])
        why = _in_process(work, name, request, limit_s)
        if why:
            failed = Finding("failed", None, holds=False, note=why)
            append(request.results, name, failed, card="", scale=request.scale)
    return []


def plan_each(names: Sequence[str], request: Request) -> None:
    """Measures the plans of stages, each in a process, without a limit. A stage whose plans fail measures them anew."""
    for name in names:
        _in_process(plan_ahead, name, request, None)


def _in_process(work: Work, name: str, request: Request, limit_s: float | None) -> str:
    """Runs a function on a stage in a process; returns why that ended badly, or nothing."""
    process = SERVER.Process(target=work, args=(name, request))
    process.start()
    process.join(limit_s)
    if process.is_alive():
        process.kill()
        process.join()
        return f"stopped after {limit_s:.0f} s"
    return f"the process ended with code {process.exitcode}" if process.exitcode else ""


def carry_out(name: str, request: Request) -> None:
    """Carries out a stage in this process."""
    quiet_libraries("diffusers", "transformers")
    with tempfile.TemporaryDirectory(prefix="loraedit-") as folder, _bench(request, Path(folder)) as bench:
        record(STAGES[name], bench, request)


def plan_ahead(name: str, request: Request) -> None:
    """Measures the plans of a stage in this process."""
    quiet_libraries("diffusers", "transformers")
    with tempfile.TemporaryDirectory(prefix="loraedit-") as folder, _bench(request, Path(folder)) as bench:
        STAGES[name].plan(bench)


def _bench(request: Request, folder: Path) -> AbstractContextManager[Bench]:
    scale = TINY if request.scale == "tiny" else TRUE
    return open_bench(scale, request.device, request.planned, folder)


def record(stage: Stage, bench: Bench, request: Request) -> None:
    """Writes the findings of a stage, or why it failed, and how long it took."""
    facts, start = {"card": device_name(bench.device), "scale": request.scale}, time.monotonic()
    try:
        for finding in stage.run(bench):
            append(request.results, stage.name, finding, **facts)
    except Exception as error:  # whatever goes wrong costs this stage alone
        traceback.print_exc()
        reason = f"{type(error).__name__}: {str(error).strip()[:200]}"
        append(request.results, stage.name, Finding("failed", None, holds=False, note=reason), **facts)
        return
    append(request.results, stage.name, Finding(FINISHED, time.monotonic() - start, "s"), **facts)
