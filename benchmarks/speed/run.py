"""Measures seconds and memory of a training and of a sampling step, beside other libraries, in one process.

    python -m benchmarks.speed.run [--page docs/benchmark.md] [--rounds 7]

All contenders take turns: in every round each does one step, in an order that rotates, so that other load on the
machine affects all of them alike. Figures are medians over the rounds; the first steps warm up. Memory is what torch
allocates: weights, LoRA and optimiser, plus the peak within a step, counted allocation by allocation.
DiffSynth-Studio is measured if it is installed (``pip install diffsynth einops --no-deps``).
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import queue
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from benchmarks.speed.contenders import diffsynth, loraedit, plain
from benchmarks.speed.page import section
from benchmarks.speed.work import Contender, Steps, make_work
from benchmarks.tables import put_section

WARM_UP = 2
SIZES = [(9, 16), (17, 32)]
"""Latent frames and cells per side: a window of the benchmark's cases, and one with eight times the tokens."""


def contenders(work: Any, folder: Path) -> list[Contender]:
    """Returns loraedit first, then the others in each precision that they offer."""
    found = [loraedit(work, folder), *(plain(work, dtype) for dtype in (torch.float32, torch.bfloat16))]
    if importlib.util.find_spec("diffsynth") is not None:
        found += [diffsynth(work, folder, torch.bfloat16, checkpointing=True)]
        found += [diffsynth(work, folder, dtype, checkpointing=False) for dtype in (torch.bfloat16, torch.float32)]
    return found


def seconds(found: Sequence[Contender], what: str, rounds: int) -> dict[str, list[float]]:
    """Returns the seconds of every step by contender."""
    steps = {each.name: in_turns(getattr(each, what), WARM_UP + rounds + 1) for each in found}
    for running in steps.values():
        for _ in range(WARM_UP):
            next(running)
    taken: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(rounds):
        order = list(steps)[turn % len(steps) :] + list(steps)[: turn % len(steps)]
        for name in order:
            start = time.perf_counter()
            next(steps[name])
            taken[name].append(time.perf_counter() - start)
        print(what, turn + 1, "of", rounds, flush=True)
    return taken


def in_turns(work: Steps, steps: int) -> Iterator[None]:
    """Yields after every step of the work, which continues in a thread only while the next step is requested."""
    done: queue.Queue[BaseException | bool] = queue.Queue()
    go = threading.Semaphore(0)

    def on_step(*_: object) -> None:
        done.put(True)
        go.acquire()

    def carry_out() -> None:
        go.acquire()
        try:
            work(steps, on_step)
            done.put(False)
        except BaseException as error:
            done.put(error)

    threading.Thread(target=carry_out, daemon=True).start()
    while True:
        go.release()
        state = done.get()
        if isinstance(state, BaseException):
            raise state
        if not state:
            return
        yield


def peak_bytes(contender: Contender, what: str) -> int:
    """Returns the bytes of weights and trained parameters, plus the most that a step allocates on top."""
    model: nn.Module = getattr(contender, f"{what}_model")
    held = held_bytes(model)
    held += 2 * sum(value.nbytes for value in model.parameters() if value.requires_grad) * (what == "train")
    profiled = profile(activities=[ProfilerActivity.CPU], profile_memory=True)
    done = iter(range(1, WARM_UP + 3))

    def on_step(*_: object) -> None:
        step = next(done)
        if step == WARM_UP:
            profiled.start()
        elif step == WARM_UP + 1:
            profiled.stop()

    getattr(contender, what)(WARM_UP + 2, on_step)
    events = [each for each in profiled.profiler.kineto_results.events() if each.name() == "[memory]"]
    level = peak = 0
    for event in sorted(events, key=lambda each: each.start_ns()):
        level += event.nbytes()
        peak = max(peak, level)
    return held + peak


def processor() -> str:
    """Returns the processor's name, and whether it multiplies bfloat16 matrices in one instruction."""
    found = torch.cpu.get_capabilities()
    return f"{found['cpu_name']}, {'with' if found.get('amx_bf16') else 'without'} AMX"


def held_bytes(model: nn.Module) -> int:
    """Returns the bytes of a model's parameters and buffers."""
    return sum(value.nbytes for value in (*model.parameters(), *model.buffers()))


def measure(model: str, frames: int, side: int, rounds: int) -> dict[str, Any]:
    """Returns all figures of all contenders."""
    work = make_work(model, frames, side, WARM_UP + rounds + 1)
    figures: dict[str, Any] = {
        "latents": [frames, side, side],
        "threads": torch.get_num_threads(),
        "processor": processor(),
        "rounds": rounds,
    }
    with tempfile.TemporaryDirectory() as folder:
        found = contenders(work, Path(folder))
        figures["weights"] = held_bytes(found[0].sample_model)
        for what in ("train", "sample"):
            taken = seconds(found, what, rounds)
            figures[what] = {
                each.name: {
                    "seconds": statistics.median(taken[each.name]),
                    "fastest": min(taken[each.name]),
                    "bytes": peak_bytes(each, what),
                }
                for each in found
            }
    return figures


def argument_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="nano")
    parser.add_argument(
        "--latents",
        type=int,
        nargs=2,
        action="append",
        metavar=("FRAMES", "SIDE"),
        help="latent frames and cells per side",
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--page", type=Path, help="write the figures into this page, between its markers")
    return parser


def main() -> None:
    arguments = argument_parser().parse_args()
    torch.set_num_threads(arguments.threads)
    sizes = arguments.latents or SIZES
    figures = [measure(arguments.model, frames, side, arguments.rounds) for frames, side in sizes]
    print(json.dumps(figures, indent=1))
    if arguments.page is not None:
        put_section(arguments.page, "speed", section(figures))


if __name__ == "__main__":
    main()
