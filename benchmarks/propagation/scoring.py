"""Scores a result whose truth is known."""

from __future__ import annotations

from benchmarks import truth_metrics
from benchmarks.propagation.cases import Case
from loraedit.evaluate import metrics
from loraedit.types import Frames

__all__ = ["score"]


def score(frames: Frames, case: Case) -> dict[str, float]:
    """Returns all measures of a result, over the frames after the first."""
    got, truth, source, mask, region = (x[1:] for x in (frames, case.truth, case.source, case.mask, case.region))
    return {
        "psnr": truth_metrics.psnr(got, truth, region),
        "psnr_mask": truth_metrics.psnr(got, truth, mask),
        "psnr_border": truth_metrics.psnr(got, truth, truth_metrics.border(mask, 3)),
        "ssim": truth_metrics.ssim(got, truth, region),
        "nearer": truth_metrics.nearer_to_truth(got, truth, source, region),
        "flow": metrics.flow_similarity(frames, case.source, case.mask),
        "flicker": metrics.flicker(frames, case.source, case.mask),
        "outside": float(metrics.outside_difference(frames, case.source, case.mask)),
    }
