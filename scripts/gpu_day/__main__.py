"""Measures training, sampling and encoding at true size with random weights on one GPU: see docs/gpu.md.

    python -m scripts.gpu_day [--tiny] [--stages NAME ...] [--results FILE] [--minutes N]

Each figure is a line of JSON, on the screen and in the results file. The exit code is 1 if a figure does not hold or a
stage failed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from scripts.gpu_day.page import page
from scripts.gpu_day.refit import refit
from scripts.gpu_day.results import failures, finished, read
from scripts.gpu_day.runner import SERVER, Request, carry_out, plan_each, run_each
from scripts.gpu_day.stages import STAGES

RESULTS = Path("outputs/gpu-day.jsonl")


def argument_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    parser = argparse.ArgumentParser(prog="python -m scripts.gpu_day", description=__doc__)
    parser.add_argument("--tiny", action="store_true", help="small versions of the same classes, on a CPU")
    parser.add_argument("--device", help="where to measure, if not on this machine's best device")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES), metavar="NAME")
    parser.add_argument("--minutes", type=float, default=12, help="time for all stages together")
    parser.add_argument("--again", action="store_true", help="also run stages that have finished before")
    parser.add_argument("--results", type=Path, help=f"file of the results, if not {RESULTS}")
    parser.add_argument("--planned", type=Path, help="file of the plans, if not the one beside the results")
    parser.add_argument("--plan-only", action="store_true", help="only measure the plans; needs no GPU")
    parser.add_argument("--page", type=Path, help="only write the page of the results to this file")
    parser.add_argument("--refit", action="store_true", help="only store the share of its speed that a GPU reached")
    return parser


def main() -> int:
    """Runs the stages, or writes what follows from their results; returns the exit code."""
    options = argument_parser().parse_args()
    with tempfile.TemporaryDirectory(prefix="loraedit-") as scratch:
        results = options.results or (Path(scratch) / "results.jsonl" if options.tiny else RESULTS)
        if options.page:
            options.page.write_text(page(list(STAGES.values()), read(results, "true")), encoding="utf-8")
        if options.refit:
            print(*refit(read(results, "true")), sep="\n")
        if options.page or options.refit:
            return 0
        planned = options.planned or results.with_suffix(".plans.json")
        device = options.device or ("cpu" if options.tiny else None)
        request = Request("tiny" if options.tiny else "true", device, results, planned)
        return run(options, request)


def run(options: argparse.Namespace, request: Request) -> int:
    """Measures the plans and carries out the stages; returns the exit code."""
    done = set() if options.again else finished(read(request.results, request.scale))
    wanted = [name for name in STAGES if name in options.stages and name not in done]
    SERVER.set_forkserver_preload(["scripts.gpu_day.stages"])  # the libraries are imported once for all processes
    plan_each(wanted, request)
    if options.plan_only:
        return 0
    left_out = run_each(wanted, request, 60 * options.minutes, carry_out)
    bad = failures(read(request.results, request.scale), wanted)
    for line in bad:
        print(f"Does not hold: {line['stage']}, {line['measure']} {line['note']}", file=sys.stderr)
    if left_out:
        print(f"No time was left for {', '.join(left_out)}. Run the command again.", file=sys.stderr)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
