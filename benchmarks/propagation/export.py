"""Writes cases as folders of PNGs, for methods that are not written in Python.

    python -m benchmarks.propagation.export --out DIR [--kinds KIND ...] [--size FxHxW]

A case becomes ``DIR/NAME`` with the folders source, truth, mask and region (white = True) and the images
first_frame_edited.png and last_frame_edited.png, which are the truth's first and last frame.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from benchmarks.propagation.cases import KINDS, Case, case_ids, make_case
from loraedit.masks.reading import to_picture
from loraedit.types import Clip
from loraedit.video import DEFAULT_FPS, write_clip, write_image

__all__ = ["export"]


def export(case: Case, folder: Path) -> None:
    """Writes a case into a new folder, without loss."""
    clips = {
        "source": case.source,
        "truth": case.truth,
        "mask": np.stack([to_picture(plane) for plane in case.mask]),
        "region": np.stack([to_picture(plane) for plane in case.region]),
    }
    for name, frames in clips.items():
        write_clip(folder / name, Clip(frames, DEFAULT_FPS))
    write_image(folder / "first_frame_edited.png", case.truth[0])
    write_image(folder / "last_frame_edited.png", case.truth[-1])


def argument_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--size", default="17x128x128", help="frames x height x width")
    return parser


def main() -> None:
    options = argument_parser().parse_args()
    frames, height, width = (int(side) for side in options.size.split("x"))
    for kind, number in case_ids():
        if kind in options.kinds:
            case = make_case(kind, number, frames, height, width)
            export(case, options.out / case.name)
            print(options.out / case.name, flush=True)


if __name__ == "__main__":
    main()
