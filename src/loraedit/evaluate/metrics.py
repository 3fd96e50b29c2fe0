"""Measures of an edited clip, as pure functions.

Frames are uint8 ``[F, H, W, 3]``, masks and regions bool ``[F, H, W]``, all of one F, H and W. Differences are in grey
levels of 0 to 255. An empty region is refused, for there is nothing to average. Clips are gone through frame by frame,
so that no second copy of a long one is made. What needs torch imports it when called.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from loraedit.errors import InputError, ShapeError
from loraedit.masks import dilate
from loraedit.optical_flow import Field, FlowMeter, at, grid
from loraedit.types import Frames, Image, Mask, Size

__all__ = [
    "CLEAR_LEVELS",
    "Embed",
    "Interval",
    "border",
    "changed_share",
    "first_frame_similarity",
    "flicker",
    "flow_similarity",
    "input_similarity",
    "nearer_to_truth",
    "outside_difference",
    "paired_bootstrap",
    "psnr",
    "ssim",
]

Embed = Callable[[Frames], NDArray[np.float32]]
"""An image encoder: uint8 ``[F, H, W, 3]`` to one vector of length 1 a frame, ``[F, D]``."""

CLEAR_LEVELS = 16
"""A pixel is clearly changed where a channel differs by more than this."""

BEST_PSNR_DB = 100.0
"""What identical frames score, and the most that any can."""

FLOW_SHORT_SIDE = 224
"""Frames smaller than this are enlarged before the flow is measured."""

FLOW_REST_PX = 0.1
"""Displacement below which two flows count as alike: about what noise alone makes of a region at rest."""

SSIM_MARGIN_PX = 5
"""Half the window of SSIM; a frame has to be wider and higher."""


# ---- against the true edit -------------------------------------------------------------------------------------------


def psnr(frames: Frames, truth: Frames, region: Mask | None = None) -> float:
    """Peak signal-to-noise ratio over all pixels and channels of a region, in dB: higher is better, at most 100.

    ``10 log10(255^2 / MSE)``. For the seam of an edit, take ``border(mask, 3)`` as the region.

    Args:
        frames: the result.
        truth: what it should be.
        region: where to measure; everywhere if not given.

    Raises:
        ShapeError: the three do not fit together.
        InputError: the region is empty.
    """
    region = _checked_region(region, frames, truth)
    total = sum(
        int(np.square(_difference(a, b)[where]).sum()) for a, b, where in zip(frames, truth, region, strict=True)
    )
    error = total / (3 * int(region.sum()))
    return min(BEST_PSNR_DB, float(10 * np.log10(255**2 / error))) if error else BEST_PSNR_DB


def ssim(frames: Frames, truth: Frames, region: Mask | None = None) -> float:
    """Structural similarity, -1 to 1, 1 for equal: the mean of its map over a region and the colour channels.

    The map is torchmetrics', with the usual Gaussian window of 11 pixels; at the edge of a region the window reaches
    over it.

    Args:
        frames: the result.
        truth: what it should be.
        region: where to average; everywhere if not given.

    Raises:
        ShapeError: the three do not fit together, or a side has fewer than 6 pixels.
        InputError: the region is empty.
    """
    region = _checked_region(region, frames, truth)
    if min(frames.shape[1:3]) <= SSIM_MARGIN_PX:
        raise ShapeError(
            f"SSIM needs frames of at least {SSIM_MARGIN_PX + 1} pixels a side, but they are {list(frames.shape[1:3])}."
        )
    total = sum(
        float(_ssim_map(a, b)[where].sum()) for a, b, where in zip(frames, truth, region, strict=True) if where.any()
    )
    return total / (3 * int(region.sum()))


def border(mask: Mask, width_px: float) -> Mask:
    """The band along a mask's edge: all pixels within ``width_px`` of both a masked and an unmasked one.

    So a band is ``width_px`` wide on either side. The edge of the frame is no edge of the mask.
    """
    return dilate(mask, width_px) & dilate(~mask, width_px)


def nearer_to_truth(frames: Frames, truth: Frames, source: Frames, region: Mask) -> float:
    """How far the edit got: the share of clearly edited pixels that are nearer to the truth than to the source.

    0 for the source itself, 1 for the truth. Nearer is by squared difference over the channels; a tie counts for the
    source.

    Args:
        frames: the result.
        truth: what it should be.
        source: what it was made from.
        region: where to look; of it, those pixels count where truth and source differ clearly.

    Raises:
        ShapeError: the four do not fit together.
        InputError: no pixel of the region is clearly edited.
    """
    _require_same_shape(frames, truth, source, region=region)
    edited = nearer = 0
    for got, true, was, where in zip(frames, truth, source, region, strict=True):
        clear = where & _clearly_different(true, was)
        to_truth, to_source = (np.square(_difference(got, other)).sum(-1) for other in (true, was))
        edited += int(clear.sum())
        nearer += int((to_truth < to_source)[clear].sum())
    if not edited:
        raise InputError("Truth and source do not differ clearly anywhere in the region, so nothing can be counted.")
    return nearer / edited


# ---- without it ------------------------------------------------------------------------------------------------------


def outside_difference(frames: Frames, source: Frames, mask: Mask) -> int:
    """The largest absolute difference of a channel outside the mask, 0 to 255 grey levels; 0 = exact."""
    _require_same_shape(frames, source, region=mask)
    planes = zip(frames, source, mask, strict=True)
    return max(int(np.abs(_difference(a, b))[~inside].max(initial=0)) for a, b, inside in planes)


def changed_share(frames: Frames, source: Frames, mask: Mask) -> float:
    """The share of the mask's pixels, 0 to 1, that clearly differ from the source.

    Raises:
        InputError: the mask is empty.
    """
    mask = _checked_region(mask, frames, source)
    planes = zip(frames, source, mask, strict=True)
    return sum(int((_clearly_different(a, b) & inside).sum()) for a, b, inside in planes) / int(mask.sum())


def flow_similarity(frames: Frames, source: Frames, mask: Mask) -> float:
    """Whether the edit dances the same dance as the source, 0 to 1, 1 for equal motion.

    With a and b the optical flow (DIS) of result and source from each frame to the next, over the pixels inside the
    mask of the earlier frame::

        1 - sum |a - b| / sum (|a| + |b| + 0.1 px)

    So a faster pixel counts for more. A result that stands still where the source moves, or moves the other way,
    comes near 0; where both stand still it is 1. Flow is measured by texture: in a flat region it is a guess.

    Raises:
        ShapeError: the three do not fit together.
        InputError: the clip has one frame only, or the mask is empty in all frames but the last.
    """
    _require_same_shape(frames, source, region=mask)
    _checked_region(mask[:-1], frames[:-1], source[:-1])
    apart = whole = 0.0
    for index in range(len(frames) - 1):
        inside = mask[index]
        ours, theirs = (_flow(clip[index], clip[index + 1])[inside].astype(np.float64) for clip in (frames, source))
        apart += float(_length(ours - theirs).sum())
        whole += float((_length(ours) + _length(theirs) + FLOW_REST_PX).sum())
    return 1 - apart / whole


def flicker(frames: Frames, source: Frames, mask: Mask) -> float:
    """How unsteady the edit is, in grey levels: lower is steadier.

    The mean over the mask of how far each pixel is from the average of the frame before and the frame after, both
    followed along the source's optical flow, which is half the second difference in time. A fade costs nothing. Blur
    from following and what is covered and uncovered do, so compare with ``flicker(source, source, mask)``.

    Raises:
        ShapeError: the three do not fit together.
        InputError: the clip has fewer than three frames, or the mask is empty in all but the first and the last.
    """
    _require_same_shape(frames, source, region=mask)
    _checked_region(mask[1:-1], frames[1:-1], source[1:-1])
    total = 0.0
    for index in range(1, len(frames) - 1):
        around = [_followed(frames[k], _flow(source[index], source[k])) for k in (index - 1, index + 1)]
        total += float(np.abs(frames[index] - (around[0] + around[1]) / 2)[mask[index]].sum())
    return total / (3 * int(mask[1:-1].sum()))


def input_similarity(embed: Embed, frames: Frames, source: Frames) -> float:
    """The paper's Input Similarity: mean cosine, -1 to 1, between each result frame and its source frame."""
    _require_same_shape(frames, source)
    return _mean_cosine(embed(frames), embed(source))


def first_frame_similarity(embed: Embed, frames: Frames, edited_first: Image) -> float:
    """Mean cosine, -1 to 1, between the user's edited first frame and each result frame after it.

    The first result frame is left out, for inside the mask it is the user's own; a clip of one frame is that frame.
    """
    later = frames[1:] if len(frames) > 1 else frames
    return _mean_cosine(embed(later), embed(edited_first[None]))


# ---- over several clips ----------------------------------------------------------------------------------------------


class Interval(NamedTuple):
    """A mean and its 95 % interval."""

    mean: float
    low: float
    high: float


def paired_bootstrap(differences: Sequence[float], seed: int = 0, draws: int = 10_000) -> Interval:
    """The mean of paired differences and its 95 % interval, by drawing the pairs again with replacement.

    Args:
        differences: one for each clip, such as this method's score less that one's.
        seed: the same seed gives the same interval.
        draws: how many times to draw as many as there are.

    Raises:
        InputError: there is no difference.
    """
    if not len(differences):
        raise InputError("There are no differences to draw from. Give at least one.")
    values = np.asarray(differences, np.float64)
    drawn = np.random.default_rng(seed).integers(0, len(values), (draws, len(values)))
    low, high = np.percentile(values[drawn].mean(1), [2.5, 97.5])
    return Interval(float(values.mean()), float(low), float(high))


# ---- pieces ----------------------------------------------------------------------------------------------------------


def _require_same_shape(*clips: Frames, region: Mask | None = None) -> None:
    shapes = [list(clip.shape[:3]) for clip in clips] + ([] if region is None else [list(region.shape)])
    if any(shape != shapes[0] for shape in shapes):
        raise ShapeError(f"What is compared must have the same frames, height and width, but they are {shapes}.")


def _checked_region(region: Mask | None, *clips: Frames) -> Mask:
    """The region, or everywhere; it fits the clips and is not empty."""
    whole: Mask = np.ones(clips[0].shape[:3], np.bool_) if region is None else region
    _require_same_shape(*clips, region=whole)
    if not whole.any():
        raise InputError("The region is empty in the frames that are measured, so there is nothing to average.")
    return whole


def _difference(a: Image, b: Image) -> NDArray[np.int32]:
    return a.astype(np.int32) - b.astype(np.int32)


def _clearly_different(a: Image, b: Image) -> NDArray[np.bool_]:
    """``[H, W]`` of two images."""
    return np.asarray(np.abs(_difference(a, b)).max(-1) > CLEAR_LEVELS)


def _ssim_map(frame: Image, truth: Image) -> NDArray[np.float64]:
    """``[H, W, 3]``."""
    import torch
    from torchmetrics.functional.image import structural_similarity_index_measure

    ours, theirs = (torch.from_numpy(image.astype(np.float64)).permute(2, 0, 1)[None] for image in (frame, truth))
    _, full = structural_similarity_index_measure(ours, theirs, data_range=255.0, return_full_image=True)
    return np.asarray(full[0].permute(1, 2, 0).numpy(), np.float64)


def _flow(first: Image, second: Image) -> Field:
    """Where each pixel of the first image goes in the second."""
    meter = FlowMeter(Size(*first.shape[:2]), FLOW_SHORT_SIDE)
    return meter.at_clip_size(meter.between(meter.grey(first), meter.grey(second)))


def _followed(image: Image, flow: Field) -> Field:
    """``[H, W, 3]``: the image where the flow leads, the border repeated beyond it."""
    return at(image, grid(flow) + flow)


def _length(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.hypot(vectors[..., 0], vectors[..., 1]))


def _mean_cosine(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Of rows of length 1, ``[F, D]`` and ``[F or 1, D]``."""
    return float((a.astype(np.float64) * b).sum(-1).mean())
