"""Metrics against a known true edit, and intervals over several clips.

Frames and regions are those of :mod:`loraedit.evaluate.metrics`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from loraedit.errors import InputError, ShapeError
from loraedit.evaluate.frames import Images, Planes, aligned, clearly_different, difference, nonempty
from loraedit.masks.shaping import dilate
from loraedit.types import Image, Mask

__all__ = ["Interval", "border", "nearer_to_truth", "paired_bootstrap", "psnr", "ssim"]

BEST_PSNR_DB = 100.0
"""The score of identical frames, and the most that any can have."""

SSIM_MARGIN_PX = 5
"""Half the window of SSIM; a frame has to be wider and higher."""


def psnr(frames: Images, truth: Images, region: Planes | None = None) -> float:
    """Returns the peak signal-to-noise ratio in dB: higher is better, at most 100.

    It is ``10 log10(255^2 / MSE)`` over all pixels and channels of a region. For the seam of an edit, use
    ``border(mask, 3)`` as the region.

    Args:
        frames: the result.
        truth: the true edit.
        region: where to measure; None is everywhere.

    Raises:
        ShapeError: frame counts, heights or widths differ.
        InputError: the region is empty.
    """
    total = count = 0
    for (a, b), where in aligned(frames, truth, region=region):
        total += int(np.square(difference(a, b)[where]).sum())
        count += int(where.sum())
    error = total / (3 * nonempty(count))
    return min(BEST_PSNR_DB, float(10 * np.log10(255**2 / error))) if error else BEST_PSNR_DB


def ssim(frames: Images, truth: Images, region: Planes | None = None) -> float:
    """Returns the structural similarity, -1 to 1, where 1 is equal: the mean of its map over region and channels.

    The map is that of torchmetrics, with the usual Gaussian window of 11 pixels. At the edge of a region the window
    reaches over it.

    Args:
        frames: the result.
        truth: the true edit.
        region: where to average; None is everywhere.

    Raises:
        ShapeError: frame counts, heights or widths differ, or a side has fewer than 6 pixels.
        InputError: the region is empty.
    """
    total, count = 0.0, 0
    for (a, b), where in aligned(frames, truth, region=region):
        if min(a.shape[:2]) <= SSIM_MARGIN_PX:
            raise ShapeError(
                f"SSIM needs frames of at least {SSIM_MARGIN_PX + 1} pixels a side, but they are {list(a.shape[:2])}."
            )
        if where.any():
            total += float(_ssim_map(a, b)[where].sum())
            count += int(where.sum())
    return total / (3 * nonempty(count))


def border(mask: Mask, width_px: float) -> Mask:
    """Returns the band along a mask's edge: all pixels within ``width_px`` of both a masked and an unmasked one.

    The band is ``width_px`` wide on either side. The edge of the frame is no edge of the mask.
    """
    return dilate(mask, width_px) & dilate(~mask, width_px)


def nearer_to_truth(frames: Images, truth: Images, source: Images, region: Planes) -> float:
    """Returns the share of clearly edited pixels that are nearer to the truth than to the source.

    It is 0 for the source itself and 1 for the truth. Nearer is by squared difference over the channels; a tie counts
    for the source.

    Args:
        frames: the result.
        truth: the true edit.
        source: the unedited clip.
        region: where to look. The pixels of it where truth and source clearly differ count.

    Raises:
        ShapeError: frame counts, heights or widths differ.
        InputError: no pixel of the region is clearly edited.
    """
    edited = nearer = 0
    for (got, true, was), where in aligned(frames, truth, source, region=region):
        clear = where & clearly_different(true, was)
        to_truth, to_source = (np.square(difference(got, other)).sum(-1) for other in (true, was))
        edited += int(clear.sum())
        nearer += int((to_truth < to_source)[clear].sum())
    if not edited:
        raise InputError("Truth and source do not differ clearly anywhere in the region, so nothing can be counted.")
    return nearer / edited


class Interval(NamedTuple):
    """A mean and its 95 % interval."""

    mean: float
    low: float
    high: float


def paired_bootstrap(differences: Sequence[float], seed: int = 0, draws: int = 10_000) -> Interval:
    """Returns the mean of paired differences and its 95 % interval, by drawing the pairs again with replacement.

    Args:
        differences: one for each clip, such as one method's score minus another's.
        seed: the same seed gives the same interval.
        draws: how often to draw as many pairs as there are.

    Raises:
        InputError: there is no difference.
    """
    if not len(differences):
        raise InputError("There are no differences to draw from. Give at least one.")
    values = np.asarray(differences, np.float64)
    drawn = np.random.default_rng(seed).integers(0, len(values), (draws, len(values)))
    low, high = np.percentile(values[drawn].mean(1), [2.5, 97.5])
    return Interval(float(values.mean()), float(low), float(high))


def _ssim_map(frame: Image, truth: Image) -> NDArray[np.float64]:
    """Returns the SSIM map of two images, ``[H, W, 3]``."""
    import torch
    from torchmetrics.functional.image import structural_similarity_index_measure

    ours, theirs = (torch.from_numpy(image.astype(np.float64)).permute(2, 0, 1)[None] for image in (frame, truth))
    _, full = structural_similarity_index_measure(ours, theirs, data_range=255.0, return_full_image=True)
    return np.asarray(full[0].permute(1, 2, 0).numpy(), np.float64)
