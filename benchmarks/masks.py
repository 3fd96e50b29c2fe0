"""How good masks made from an edit alone are: on the forty cases of the propagation benchmark.

    python -m benchmarks.masks [--edit]

Covered is the share of truly changed pixels that the mask holds, area the size of the mask over that of the true box.
With --edit the first case of each kind is edited too, with the true box as its mask and with the mask made from the
edit: PSNR against the truth in dB where the edited thing is seen, of all frames but the first.
"""

from __future__ import annotations

import argparse
from fractions import Fraction

import numpy as np

import loraedit
from benchmarks.propagation.cases import KINDS, Case, all_cases, make_case
from loraedit.evaluate import metrics
from loraedit.tracking import mask_from_edit
from loraedit.types import Clip, Mask


def measure(case: Case) -> tuple[float, float]:
    """Share of the changed pixels that the mask covers, and its area over the true box's."""
    clip = Clip(case.source, Fraction(10))
    mask = np.stack(list(mask_from_edit(clip, {0: case.truth[0]})))
    changed = (case.source != case.truth).any(-1)
    return float(mask[changed].mean()), float(mask.sum() / case.mask.sum())


def psnr(case: Case, mask: Mask | None) -> float:
    """Of the edit as the model's card has it, in dB; a mask of None is made from the edit."""
    edited = loraedit.edit(Clip(case.source, Fraction(10)), case.truth[0], mask).clip.frames
    return metrics.psnr(edited[1:], case.truth[1:], case.region[1:])


def compare_edits() -> None:
    """Print how much an edit loses with a mask that cost no work."""
    losses = []
    for kind in KINDS:
        case = make_case(kind, 0)
        boxed, made = psnr(case, case.mask), psnr(case, None)
        losses.append(made - boxed)
        print(f"{case.name:12}  true box {boxed:.2f} dB  made from the edit {made:.2f} dB", flush=True)
    print(f"difference {np.mean(losses):+.2f} dB on average, worst {min(losses):+.2f} dB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--edit", action="store_true", help="edit with both masks, and compare")
    if parser.parse_args().edit:
        compare_edits()
        return
    figures = []
    for case in all_cases():
        figures.append(measure(case))
        print(f"{case.name:12} covered {figures[-1][0]:6.1%}  area {figures[-1][1]:.2f}", flush=True)
    covered, area = np.array(figures).T
    print(f"covered {covered.mean():.1%} (worst {covered.min():.1%}), area {area.mean():.2f} (worst {area.max():.2f})")


if __name__ == "__main__":
    main()
