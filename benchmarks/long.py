"""Measures colour drift, seams and memory on long clips.

    python -m benchmarks.long [--tests NAME ...] [--steps N] [--work FOLDER] [--page docs/long-clips-and-files.md]

still    300 frames of a textured object that stands still: drift of its colours from the first window to the last
moving   100 frames of a moving object: quality against the true edit, and the seams
memory   60 and 300 frames of one kind: peak memory of each
hd       600 frames of 1920x1080 with a small edit: peak memory, with few training and sampling steps, since their
         number does not change the peak
hd-auto  the same with the automatic mask

Each edit runs in its own process, on a file. Results are kept, so the run can be stopped and continued.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from fractions import Fraction
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks.keeping import code_of, kept, result_key
from benchmarks.propagation.cases import make_case
from benchmarks.tables import put_table
from loraedit.storage.files import write_json
from loraedit.types import Frames, Image, Mask
from loraedit.video import open_footage, write_footage, write_image

FPS = Fraction(25)
NOISE = 2.0
"""Standard deviation of the added sensor noise, in grey levels."""


# ---- clips -------------------------------------------------------------------------------------------------------


def noisy(image: Image, index: int) -> Image:
    noise = np.random.default_rng((7, index)).normal(0, NOISE, image.shape)
    return np.rint(image + noise).clip(0, 255).astype(np.uint8)


def write_still(folder: Path, frames: int) -> dict[str, Any]:
    """Writes a clip of an object that stands still under sensor noise, while a disc passes behind it."""
    case = make_case("recolour", 1, 2, 192, 192)
    box = box_of(case.mask[:1])

    def clip(image: Image) -> Iterator[Image]:
        for index in range(frames):
            frame = image.copy()
            cv2.circle(frame, (index * 5 % 260 - 30, box[1] // 2), 12, (230, 210, 60), -1)
            frame[case.region[0]] = image[case.region[0]]
            yield noisy(frame, index)

    return write_clips(folder, clip(case.source[0]), clip(case.truth[0]), case.region[:1], box)


def write_moving(folder: Path, frames: int) -> dict[str, Any]:
    """Writes a case of the benchmark in slow motion."""
    case = make_case("turning", 0, frames, 192, 192)
    clips = (iter([noisy(frame, index) for index, frame in enumerate(each)]) for each in (case.source, case.truth))
    return write_clips(folder, *clips, case.region, box_of(case.mask))


def write_hd(folder: Path, frames: int) -> dict[str, Any]:
    """Writes a case of the benchmark, small in a large picture."""
    case = make_case("recolour", 3, 60, 180, 180)
    ground = cv2.resize(np.random.default_rng(3).integers(0, 256, (27, 48, 3), np.uint8), (1920, 1080))
    y, x = 400, 800

    def clip(inner: Frames) -> Iterator[Image]:
        for index in range(frames):
            frame = ground.copy()
            there_and_back = min(index % 118, 118 - index % 118)
            frame[y : y + 180, x : x + 180] = inner[there_and_back]
            yield frame

    x0, y0, x1, y1 = box_of(case.mask)
    box = x0 + x, y0 + y, x1 + x, y1 + y
    return write_clips(folder, clip(case.source), clip(case.truth[:1].repeat(60, 0)), None, box, ".mp4")


def write_clips(
    folder: Path, source: Iterator[Image], truth: Iterator[Image], region: Mask | None,
    box: tuple[int, int, int, int], suffix: str = ".mkv",
) -> dict[str, Any]:  # fmt: skip
    """Writes source, edited first frame and truth, and returns what is known of them."""
    first = next(truth)
    write_image(folder / "edited.png", first)
    write_footage(folder / f"source{suffix}", source, FPS)
    about: dict[str, Any] = {"source": f"source{suffix}", "mask": ",".join(map(str, box))}
    if region is not None:
        write_footage(folder / "truth.mkv", iter([first, *truth]), FPS)
        write_footage(
            folder / "region.mkv", (np.repeat(plane[..., None] * np.uint8(255), 3, -1) for plane in region), FPS
        )
    write_json(folder / "about.json", about)
    return about


def box_of(mask: Mask) -> tuple[int, int, int, int]:
    """Returns the bounding box of a mask over all frames: x0, y0, x1, y1."""
    ys, xs = np.flatnonzero(mask.any((0, 2))), np.flatnonzero(mask.any((0, 1)))
    return int(xs[0]), int(ys[0]), int(xs[-1]) + 1, int(ys[-1]) + 1


WRITERS: dict[str, Callable[[Path, int], dict[str, Any]]] = {
    "still": write_still, "moving": write_moving, "hd": write_hd,
}  # fmt: skip


# ---- an edit in a process of its own -----------------------------------------------------------------------------


def carry_out(kind: str, frames: int, mask: str, steps: int, work: Path) -> dict[str, Any]:
    """Edits a clip, and returns the memory and time that it took."""
    import torch

    import loraedit
    from loraedit.cli.progress import quiet_libraries

    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    quiet_libraries("diffusers", "transformers")
    folder, started = work / f"{kind}-{frames}", time.monotonic()
    about = json.loads((folder / "about.json").read_text())
    hasty = {"steps": min(steps, 5), "sampling_steps": 4} if kind == "hd" else {"steps": steps}
    given = about["mask"] if mask == "given" else None
    result = loraedit.edit(
        folder / about["source"], folder / "edited.png", given, run=folder / f"run-{mask}-{steps}", **hasty
    )
    return {
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "seconds": time.monotonic() - started,
        "outside_exact": result.outside_exact,
    }


def make_clips(kind: str, frames: int, work: Path) -> None:
    folder = work / f"{kind}-{frames}"
    if not (folder / "about.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        WRITERS[kind](folder, frames)


def in_own_process(function: Callable[..., Any], *arguments: Any) -> Any:
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def edited(kind: str, frames: int, mask: str, steps: int, work: Path) -> dict[str, Any]:
    """Returns the memory and time of an edit, from disk or measured now."""
    path = work / f"{kind}-{frames}" / f"took-{mask}-{steps}.json"

    def make() -> dict[str, Any]:
        in_own_process(make_clips, kind, frames, work)
        took: dict[str, Any] = in_own_process(carry_out, kind, frames, mask, steps, work)
        return took

    found: dict[str, Any] = kept(path, make)
    return found


# ---- measures ----------------------------------------------------------------------------------------------------


def lab(frame: Image) -> NDArray[np.float32]:
    return np.asarray(cv2.cvtColor(frame.astype(np.float32) / 255, cv2.COLOR_RGB2LAB))


def drift(frames: Frames, region: Mask, window: int) -> float:
    """Returns the CIE76 difference between an object's mean colours in the first window and in the last."""
    first, last = (np.mean([lab(f)[region].mean(0) for f in part], 0) for part in (frames[:window], frames[-window:]))
    return float(np.linalg.norm(first - last))


def worst_drift(frames: Frames, region: Mask, window: int, cell: int = 16) -> float:
    """Returns the drift of the worst cell of 16 pixels, since opposite drifts of two cells cancel in the mean."""
    worst = 0.0
    for y in range(0, region.shape[0], cell):
        for x in range(0, region.shape[1], cell):
            part = np.zeros_like(region)
            part[y : y + cell, x : x + cell] = region[y : y + cell, x : x + cell]
            if part.sum() >= cell * cell // 2:
                worst = max(worst, drift(frames, part, window))
    return worst


def changes(frames: Frames, inside: Mask) -> NDArray[np.float64]:
    """Returns the mean difference of neighbouring frames inside the mask, in grey levels."""
    pairs = zip(frames[1:], frames[:-1], inside[1:], strict=True)
    return np.array([np.abs(a.astype(int) - b)[plane].mean() for a, b, plane in pairs])


def seams(frames: Frames, truth: Frames, inside: Mask, borders: list[range]) -> dict[str, str]:
    """Returns the change between frames at the borders of segments, relative to the median change elsewhere.

    Objects do not move at constant speed, so each change is first divided by that of the true edit.
    """
    share = changes(frames, inside) / changes(truth, inside)
    at = sorted({index for border in borders for index in border})
    elsewhere = np.delete(share, at)
    usual = float(np.median(elsewhere))
    each = [float(share[border].mean()) / usual for border in borders]
    low, high = np.percentile(elsewhere, (5, 95)) / usual
    return {
        "change over a border": f"{min(each):.3f} to {max(each):.3f} of the median ({len(each)} borders)",
        "change of single frames at borders": f"{share[at].min() / usual:.3f} to {share[at].max() / usual:.3f}",
        "change of 90 % of the frames elsewhere": f"{low:.3f} to {high:.3f}",
    }


def segment_borders(frames: int) -> tuple[list[range], int]:
    """Returns where segments meet (indices of the earlier frames), and the length of the first segment."""
    from loraedit.families.card import NANO, read_card
    from loraedit.job.segments import split

    card = read_card(NANO)
    segments = split(frames, card.recipe.segment_frames, card.frame_step, card.temporal)
    pairs = pairwise(segments)
    return [range(two.start + two.fixed - 1, one.stop) for one, two in pairs], len(segments[0])


def measures(kind: str, frames: int, steps: int, work: Path) -> dict[str, str]:
    """Returns drift, seams and quality of a finished edit."""
    from benchmarks.truth_metrics import psnr

    folder = work / f"{kind}-{frames}"
    result, truth = (
        np.stack(list(open_footage(path).rgb()))
        for path in (folder / f"run-given-{steps}/frames", folder / "truth.mkv")
    )
    region = np.stack([plane[..., 0] > 127 for plane in open_footage(folder / "region.mkv").rgb()])
    region = np.broadcast_to(region, (frames, *region.shape[1:]))
    borders, window = segment_borders(frames)
    found = seams(result, truth, region, borders)
    for name, part in (("first", slice(window)), ("last", slice(-window, None))):
        found[f"PSNR, {name} window"] = f"{psnr(result[part], truth[part], region[part]):.2f} dB"
    if kind == "still":
        found["drift"] = f"{drift(result, region[0], window):.2f} dE"
        found["drift of the worst cell"] = f"{worst_drift(result, region[0], window):.2f} dE"
    return found


HD = {"given": "hd", "auto": "hd-auto"}
"""Tests of a large picture, by the mask of the edit."""


# ---- the table ---------------------------------------------------------------------------------------------------


def rows(tests: list[str], steps: int, work: Path) -> Iterator[tuple[str, str, str]]:
    if "still" in tests:
        took = edited("still", 300, "given", steps, work)
        yield "still", "exact outside the mask", str(took["outside_exact"])
        yield from (("still", *measure) for measure in measures("still", 300, steps, work).items())
    if "moving" in tests:
        edited("moving", 100, "given", steps, work)
        yield from (("moving", *measure) for measure in measures("moving", 100, steps, work).items())
    if "memory" in tests:
        peaks = [edited("still", frames, "given", steps, work)["peak_mb"] for frames in (60, 300)]
        yield "memory", "60 frames", f"{peaks[0]:.0f} MB"
        yield "memory", "300 frames", f"{peaks[1]:.0f} MB ({peaks[1] / peaks[0]:.3f} times)"
    for mask in (mask for mask, test in HD.items() if test in tests):
        took = edited("hd", 600, mask, steps, work)
        yield "hd", f"600 frames of 1920x1080, mask {mask}", f"{took['peak_mb']:.0f} MB, {took['seconds']:.0f} s"


def argument_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = ["still", "moving", "memory", *HD.values()]
    parser.add_argument("--tests", nargs="*", default=names, choices=names)
    parser.add_argument("--steps", type=int, default=60, help="training steps")
    parser.add_argument("--work", type=Path, default=Path(".cache/long"))
    parser.add_argument("--page", type=Path, help="put the table of each test into this page")
    return parser


def main() -> None:
    options = argument_parser().parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    table, by_test = Table("test", "measure", "value"), dict[str, list[list[str]]]()
    for test, *row in rows(options.tests, options.steps, options.work / result_key(code_of(__file__))):
        print(test, *row, flush=True)
        table.add_row(test, *row)
        by_test.setdefault(test, []).append(row)
    Console().print(table)
    for test, measured in by_test.items() if options.page else ():
        put_table(options.page, test, ("measure", "value"), measured)


if __name__ == "__main__":
    main()
