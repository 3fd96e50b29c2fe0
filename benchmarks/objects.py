"""Measures what it costs to edit two objects at once: a clip with two objects, edited together and each alone.

    python -m benchmarks.objects [--cases N] [--work FOLDER] [--set NAME=VALUE ...]
        [--page docs/references-and-objects.md]

A case is one of the kind ``two`` of the propagation benchmark, with the second object recoloured too. Each object has
its own mask and its own reference for the last frame. Quality is the PSNR to the truth in the object's region without
the other mask, in the frames after the first; together it should be within 0.5 dB of alone. The largest difference to
the source outside both masks should be 0. Bleeding would bring a region nearer to the other object's colours together
than alone; the table shows the mean distance to the nearest of them, in grey levels. Results are kept, so the run can
be stopped and continued.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

import loraedit
from benchmarks import truth_metrics
from benchmarks.keeping import code_of, kept, parse_settings, result_key
from benchmarks.propagation.cases import PER_KIND, edited, make_case, scenes
from benchmarks.propagation.render import render
from benchmarks.tables import put_table
from loraedit.cli.progress import quiet_libraries
from loraedit.evaluate import metrics
from loraedit.masks.shaping import box_regions
from loraedit.types import Frames, Image, Mask

ALLOWED_DB = 0.5
"""How much worse an object may be together than alone."""


@dataclass(frozen=True)
class Thing:
    """Describes one of the edited objects.

    Attributes:
        name: its name.
        truth: the clip with only this object edited, uint8 ``[F, H, W, 3]``.
        mask: the loose edit mask, bool ``[F, H, W]``.
        region: where the edited object is visible, bool ``[F, H, W]``.
    """

    name: str
    truth: Frames
    mask: Mask
    region: Mask


def two_things(number: int, frames: int = 17, side: int = 128) -> tuple[Frames, Frames, list[Thing]]:
    """Returns the source, the truth with both objects edited, and the objects."""
    case = make_case("two", number, frames, side, side)
    before, after = scenes("two", number, frames)
    other = 1 - before.edited_thing
    rng = np.random.default_rng((77, number))
    parts = edited(rng, "recolour", 0, "", before.things[other].parts)
    things = list(before.things)
    things[other] = replace(things[other], parts=parts)
    alone = render(replace(before, things=tuple(things), edited_thing=other), side, side)
    both = list(after.things)
    both[other] = replace(both[other], parts=parts)
    truth = render(replace(after, things=tuple(both)), side, side).frames
    mask = box_regions(alone.amodal[other] > 0, 0.1)
    first = Thing("first", case.truth, case.mask, case.region)
    return case.source, truth, [first, Thing("second", alone.frames, mask, alone.edited > 0.5)]


def edit(source: Frames, first: Image, things: list[Thing], settings: dict[str, Any]) -> Frames:
    """Edits the clip with the given objects."""
    last = len(source) - 1
    objects = [{"name": each.name, "mask": each.mask, "references": {last: each.truth[last]}} for each in things]
    frames: Frames = loraedit.edit(source, first, objects=objects, **settings).clip.frames  # type: ignore[attr-defined]
    return frames


def likeness(frames: Frames, region: Mask, colours: Image) -> float:
    """Returns the mean distance of a region's pixels to the nearest of some colours ``[N, 3]``, in grey levels."""
    seen = frames[region].astype(np.float32)
    palette = np.unique(colours // 16, axis=0).astype(np.float32) * 16 + 8
    nearest = [np.abs(part[:, None] - palette).mean(-1).min(1) for part in np.array_split(seen, len(seen) // 512 + 1)]
    return float(np.concatenate(nearest).mean())


def rows_of(number: int, settings: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns the figures of each object of a case."""
    source, truth, things = two_things(number)
    together = edit(source, truth[0], things, settings)
    outside = float(metrics.outside_difference(together, source, things[0].mask | things[1].mask))
    rows = []
    for thing, other in (things, things[::-1]):
        alone = edit(source, thing.truth[0], [thing], settings)
        later, own = slice(1, None), thing.region & ~other.mask
        row: dict[str, Any] = {"case": f"two-{number}", "thing": thing.name, "outside": outside}
        for name, frames in (("together", together), ("alone", alone)):
            row[name] = truth_metrics.psnr(frames[later], truth[later], own[later])
            row[f"bleed_{name}"] = likeness(frames[later], own[later], other.truth[other.region])
        rows.append(row)
    return rows


def kept_rows(number: int, settings: dict[str, Any], work: Path) -> list[dict[str, Any]]:
    """Returns the figures of a case, from disk or measured now."""
    path = work / f"{number}-{result_key(code_of(__file__), number, settings)}.json"
    rows: list[dict[str, Any]] = kept(path, lambda: rows_of(number, settings))
    return rows


HEAD = ("case", "object", "together (dB)", "alone (dB)", "difference", "to the other's colours", "outside", "within")


def line(row: dict[str, Any]) -> list[str]:
    """Returns a row of the table."""
    change = row["together"] - row["alone"]
    near = f"{row['bleed_together']:.2f} (alone {row['bleed_alone']:.2f})"
    figures = f"{row['together']:.2f}", f"{row['alone']:.2f}", f"{change:+.2f}", near, f"{row['outside']:.0f}"
    return [row["case"], row["thing"], *figures, "yes" if change >= -ALLOWED_DB else "NO"]


def argument_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=PER_KIND, help=f"how many, up to {PER_KIND}")
    parser.add_argument("--work", type=Path, default=Path(".cache/objects"))
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="settings for every edit")
    parser.add_argument("--page", type=Path, help="put the table into this page")
    return parser


def main() -> None:
    options = argument_parser().parse_args()
    quiet_libraries("diffusers", "transformers")
    lines = []
    for number in range(options.cases):
        for row in kept_rows(number, parse_settings(options.set), options.work):
            lines.append(line(row))
            print(*lines[-1], sep="  ", flush=True)
    table = Table(*HEAD)
    for each in lines:
        table.add_row(*each)
    Console().print(table)
    if options.page:
        put_table(options.page, "objects", HEAD, lines)


if __name__ == "__main__":
    main()
