"""Measures how well the embedded tracker follows an object in real footage whose true masks are known.

    python -m benchmarks.footage CLIP MASKS [--seed K] [--picture PNG] [--page docs/masks.md]

CLIP is a video or a folder of frames, MASKS a folder of masks, one per frame, such as those of the DAVIS sets. The
tracker gets the true mask of frame K (0 by default). J is region similarity, the intersection of found and true mask
over their union, without frame K. Covered is the share of the true mask inside the loose tube.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import cv2
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.tables import put_table
from loraedit.tracking import FlowTracker, Hints, LooseMaskOptions, View, loosen_mask
from loraedit.types import Footage, Mask
from loraedit.video import open_footage, write_image

PARTS = 7
"""Number of stretches of the clip that get a row of their own, since some are harder than others."""

HEAD = ("stretch", "J, mean", "J, worst", "covered by the tube, mean", "covered, worst", "tube over true mask")


def true_masks(folder: Path) -> Mask:
    """Reads masks as bool ``[F, H, W]``, True where a picture is not black."""
    return np.stack([np.asarray(frame.max(-1) > 0) for frame in open_footage(folder).rgb()])


def similarity(found: Mask, truth: Mask) -> np.ndarray:
    """Returns the region similarity J of every frame, ``[F]``; 1 where both masks are empty."""
    union = (found | truth).sum((1, 2))
    return np.where(union > 0, (found & truth).sum((1, 2)) / np.maximum(union, 1), 1.0)


def lines(tight: Mask, tube: Mask, truth: Mask, seed: int) -> list[list[str]]:
    """Returns the rows of the table: each stretch of the clip, and the whole clip."""
    j = similarity(tight, truth)
    area = np.maximum(truth.sum((1, 2)), 1)
    covered, size = (tube & truth).sum((1, 2)) / area, tube.sum((1, 2)) / area
    frames = np.array([index for index in range(len(truth)) if index != seed])
    stretches = {f"{part[0]} to {part[-1]}": part for part in np.array_split(frames, PARTS)}
    return [
        [name, f"{j[at].mean():.2f}", f"{j[at].min():.2f}", f"{covered[at].mean():.1%}", f"{covered[at].min():.1%}",
         f"{size[at].mean():.2f}"]
        for name, at in {**stretches, "all": frames}.items()
    ]  # fmt: skip


def picture(clip: Footage, tight: Mask, tube: Mask, truth: Mask) -> np.ndarray:
    """Draws frames with the outlines of the true mask (green), the found one (red) and the tube (yellow)."""
    shown = np.linspace(0, len(truth) - 1, 12).round().astype(int)
    cells = []
    for index in shown:
        cell = next(iter(clip.rgb(index, index + 1))).copy()
        for mask, colour in ((truth, (0, 255, 0)), (tight, (255, 0, 0)), (tube, (255, 255, 0))):
            outlines, _ = cv2.findContours(mask[index].astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
            cv2.drawContours(cell, outlines, -1, colour, max(1, round(min(cell.shape[:2]) / 240)))
        cells.append(cell)
    return np.concatenate([np.concatenate(cells[row : row + 3], 1) for row in range(0, 12, 3)], 0)


def argument_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clip", type=Path)
    parser.add_argument("masks", type=Path)
    parser.add_argument("--seed", type=int, default=0, metavar="K")
    parser.add_argument("--picture", type=Path, help="write frames with all outlines to this PNG")
    parser.add_argument("--page", type=Path, help="put the table into this page")
    return parser


def main() -> None:
    options = argument_parser().parse_args()
    clip, truth = open_footage(options.clip), true_masks(options.masks)
    view, started = View(clip), time.perf_counter()
    tight = np.stack(list(FlowTracker().track(view, {options.seed: Hints(mask=truth[options.seed])})))
    tube = np.stack(list(loosen_mask(view, list(tight), LooseMaskOptions())))
    print(f"{len(truth)} frames in {time.perf_counter() - started:.1f} s")
    table, found = Table(*HEAD), lines(tight, tube, truth, options.seed)
    for line in found:
        table.add_row(*line)
    Console().print(table)
    if options.picture:
        write_image(options.picture, picture(clip, tight, tube, truth))
    if options.page:
        put_table(options.page, "footage", HEAD, found)


if __name__ == "__main__":
    main()
