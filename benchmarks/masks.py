"""How good masks made from an edit alone are: on the forty cases of the propagation benchmark.

    python -m benchmarks.masks

Covered is the share of truly changed pixels that the mask holds, area the size of the mask over that of the true box.
"""

from __future__ import annotations

import argparse
from fractions import Fraction

import numpy as np

from benchmarks.propagation.cases import Case, all_cases
from loraedit.tracking import mask_from_edit
from loraedit.types import Clip


def measure(case: Case) -> tuple[float, float]:
    """Share of the changed pixels that the mask covers, and its area over the true box's."""
    clip = Clip(case.source, Fraction(10))
    mask = np.stack(list(mask_from_edit(clip, {0: case.truth[0]})))
    changed = (case.source != case.truth).any(-1)
    return float(mask[changed].mean()), float(mask.sum() / case.mask.sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    figures = []
    for case in all_cases():
        figures.append(measure(case))
        print(f"{case.name:12} covered {figures[-1][0]:6.1%}  area {figures[-1][1]:.2f}", flush=True)
    covered, area = np.array(figures).T
    print(f"covered {covered.mean():.1%} (worst {covered.min():.1%}), area {area.mean():.2f} (worst {area.max():.2f})")


if __name__ == "__main__":
    main()
