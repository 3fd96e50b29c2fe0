"""Measures the benefit of crop and stitch: cases of the benchmark as they are, and in a frame of four times their area.

    python -m benchmarks.crop [--cases N] [--work FOLDER] [--set NAME=VALUE ...] [--page docs/long-clips-and-files.md]

Each case is edited three ways: as it is (small), within the large frame with a window, and within it without one.
Quality is the PSNR to the truth in the edited region, in the frames after the first. Cost is the processor time of the
whole edit. Results are kept, so the run can be stopped and continued.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

import loraedit
from benchmarks import truth_metrics
from benchmarks.keeping import code_of, kept, parse_settings, result_key
from benchmarks.propagation.cases import KINDS, Case, make_case, scenes
from benchmarks.propagation.render import Scene, render
from benchmarks.tables import put_table
from loraedit.cli.progress import quiet_libraries
from loraedit.evaluate import metrics
from loraedit.types import Frames, Mask

SIDE = 128
"""Side of a small frame; that of a large one is twice as long."""
WAYS: dict[str, tuple[bool, dict[str, Any]]] = {
    "small frame": (False, {"crop": "off"}),
    "large frame, window": (True, {"crop": "auto"}),
    "large frame, no window": (True, {"crop": "off"}),
}
"""True if the case lies in a large frame, and the settings."""


def embedded(case: Case, number: int) -> Case:
    """Places a case in a frame of four times its area: the same scene, seen by a camera with a wider view."""
    x, y = (int(each) for each in np.random.default_rng((31, number)).integers(0, SIDE + 1, 2))
    inner = np.s_[:, y : y + SIDE, x : x + SIDE]
    pair = scenes(case.kind, number // len(KINDS), len(case.source))
    source, truth = (render(widened(scene, x / SIDE, y / SIDE), 2 * SIDE, 2 * SIDE).frames for scene in pair)
    mask, region = np.zeros((2, *source.shape[:3]), np.bool_)
    source[inner], truth[inner], mask[inner], region[inner] = case.source, case.truth, case.mask, case.region
    return replace(case, source=source, truth=truth, mask=mask, region=region)


def widened(scene: Scene, x: float, y: float) -> Scene:
    """Returns the scene under a camera that sees twice the width and height.

    Args:
        scene: the scene of the small frame.
        x: distance from the left to the old frame, in its widths.
        y: distance from the top, in its heights.
    """
    camera = scene.camera * (1, 1, 2)
    camera[:, :2] += scene.camera[:, 2:] * (0.5 - x, 0.5 - y)
    shift, half = np.array([x, y, 0, 0, 0, 0]), np.array([0.5, 0.5, 0.5, 1, 1, 1])
    things = tuple(replace(thing, path=(thing.path + shift) * half) for thing in scene.things)
    return replace(scene, camera=camera, things=things)


def carry_out(case: Case, settings: dict[str, Any]) -> dict[str, float]:
    """Returns quality and cost of an edit."""
    start = time.process_time()
    frames = loraedit.edit(case.source, case.truth[0], case.mask, **settings).clip.frames  # type: ignore[attr-defined]
    seconds = time.process_time() - start
    later = slice(1, None)
    return {
        "psnr": truth_metrics.psnr(frames[later], case.truth[later], case.region[later]),
        "border": truth_metrics.psnr(frames[later], case.truth[later], truth_metrics.border(case.mask, 3)[later]),
        "outside": float(metrics.outside_difference(frames, case.source, case.mask)),
        "seconds": seconds,
    }


def scores(number: int, way: str, settings: dict[str, Any], work: Path) -> dict[str, float]:
    """Returns the scores of a case edited in one way, from disk or measured now."""
    large, own = WAYS[way]
    settings = {**settings, **own}
    path = work / f"{number}-{result_key(code_of(__file__), number, large, settings)}.json"

    def make() -> dict[str, float]:
        case = make_case(KINDS[number % len(KINDS)], number // len(KINDS), height=SIDE, width=SIDE)
        return carry_out(embedded(case, number) if large else case, settings)

    found: dict[str, float] = kept(path, make)
    return found


def mean(rows: list[dict[str, float]], name: str) -> float:
    return float(np.mean([scores[name] for scores in rows]))


HEAD = ("way", "PSNR in the region (dB)", "at the border (dB)", "processor time", "worst difference outside", "cases")


def lines(rows: dict[str, list[dict[str, float]]]) -> Iterator[list[str]]:
    """Yields the means over the cases, beside those of the small frame."""
    small = rows["small frame"]
    for way, each in rows.items():
        gain, times = mean(each, "psnr") - mean(small, "psnr"), mean(each, "seconds") / mean(small, "seconds")
        quality, cost = f"{mean(each, 'psnr'):.2f} ({gain:+.2f})", f"{mean(each, 'seconds'):.1f} s ({times:.2f} times)"
        worst = max(scores["outside"] for scores in each)
        yield [way, quality, f"{mean(each, 'border'):.2f}", cost, f"{worst:.0f}", str(len(each))]


def by_case(rows: dict[str, list[dict[str, float]]]) -> Iterator[list[str]]:
    """Yields the PSNR in the region of every case."""
    for number in range(len(rows["small frame"])):
        kind = f"{KINDS[number % len(KINDS)]} {number // len(KINDS)}"
        yield [kind, *(f"{each[number]['psnr']:.2f}" for each in rows.values())]


def argument_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=8, help="number of cases, taken from the kinds in turn")
    parser.add_argument("--work", type=Path, default=Path(".cache/crop"))
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="settings for every edit")
    parser.add_argument("--page", type=Path, help="put the tables into this page")
    return parser


def main() -> None:
    options = argument_parser().parse_args()
    quiet_libraries("diffusers", "transformers")
    loraedit.edit(*warm_up())
    rows: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for number in range(options.cases):
        for way in WAYS:
            rows[way].append(scores(number, way, parse_settings(options.set), options.work))
            print(number, way, {name: round(value, 2) for name, value in rows[way][-1].items()}, flush=True)
    table = Table(*HEAD)
    for line in lines(rows):
        table.add_row(*line)
    Console().print(table)
    if options.page:
        put_table(options.page, "crop", HEAD, list(lines(rows)))
        put_table(options.page, "cases", ("case", *WAYS), list(by_case(rows)))


def warm_up() -> tuple[Frames, Any, Mask]:
    """Returns a tiny edit that loads the libraries before the first measured edit."""
    case = make_case(KINDS[0], 0, 5, 32, 32)
    return case.source, case.truth[0], case.mask


if __name__ == "__main__":
    main()
