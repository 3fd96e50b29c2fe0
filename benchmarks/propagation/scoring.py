"""Scores a result whose truth is known."""

from __future__ import annotations

from benchmarks.propagation.cases import Case
from loraedit.evaluate import metrics
from loraedit.types import Frames

__all__ = ["score"]


def score(frames: Frames, case: Case) -> dict[str, float]:
    """Returns all measures of a result, over the frames after the first."""
    got, truth, source, mask, region = (x[1:] for x in (frames, case.truth, case.source, case.mask, case.region))
    return {
        "psnr": metrics.psnr(got, truth, region),
        "psnr_mask": metrics.psnr(got, truth, mask),
        "psnr_border": metrics.psnr(got, truth, metrics.border(mask, 3)),
        "ssim": metrics.ssim(got, truth, region),
        "nearer": metrics.nearer_to_truth(got, truth, source, region),
        "flow": metrics.flow_similarity(frames, case.source, case.mask),
        "flicker": metrics.flicker(frames, case.source, case.mask),
        "outside": float(metrics.outside_difference(frames, case.source, case.mask)),
    }
