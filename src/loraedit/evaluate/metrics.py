"""Measures of an edited clip, as pure functions.

Clips are frames one after the other, uint8 ``[H, W, 3]``, masks and regions planes, bool ``[H, W]``, all of one number
and size; an array with a leading axis F is such. They are gone through once, so that a long clip need not be in memory.
Differences are in grey levels of 0 to 255. An empty region is refused, for there is nothing to average. What needs
torch imports it when called.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise, repeat, zip_longest
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from loraedit.errors import InputError, ShapeError
from loraedit.masks.shaping import dilate
from loraedit.optical_flow.base import FlowOptions
from loraedit.optical_flow.estimators import flow_between, open_estimator
from loraedit.optical_flow.fields import Field, pixel_grid, sample_at
from loraedit.types import Frames, Image, Mask, Plane, Size

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

Images = Iterable[Image]
Planes = Iterable[Plane]
_Value = TypeVar("_Value")

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


def psnr(frames: Images, truth: Images, region: Planes | None = None) -> float:
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
    total = count = 0
    for (a, b), where in _together(frames, truth, region=region):
        total += int(np.square(_difference(a, b)[where]).sum())
        count += int(where.sum())
    error = total / (3 * _something(count))
    return min(BEST_PSNR_DB, float(10 * np.log10(255**2 / error))) if error else BEST_PSNR_DB


def ssim(frames: Images, truth: Images, region: Planes | None = None) -> float:
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
    total, count = 0.0, 0
    for (a, b), where in _together(frames, truth, region=region):
        if min(a.shape[:2]) <= SSIM_MARGIN_PX:
            raise ShapeError(
                f"SSIM needs frames of at least {SSIM_MARGIN_PX + 1} pixels a side, but they are {list(a.shape[:2])}."
            )
        if where.any():
            total += float(_ssim_map(a, b)[where].sum())
            count += int(where.sum())
    return total / (3 * _something(count))


def border(mask: Mask, width_px: float) -> Mask:
    """The band along a mask's edge: all pixels within ``width_px`` of both a masked and an unmasked one.

    So a band is ``width_px`` wide on either side. The edge of the frame is no edge of the mask.
    """
    return dilate(mask, width_px) & dilate(~mask, width_px)


def nearer_to_truth(frames: Images, truth: Images, source: Images, region: Planes) -> float:
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
    edited = nearer = 0
    for (got, true, was), where in _together(frames, truth, source, region=region):
        clear = where & _clearly_different(true, was)
        to_truth, to_source = (np.square(_difference(got, other)).sum(-1) for other in (true, was))
        edited += int(clear.sum())
        nearer += int((to_truth < to_source)[clear].sum())
    if not edited:
        raise InputError("Truth and source do not differ clearly anywhere in the region, so nothing can be counted.")
    return nearer / edited


# ---- without it ------------------------------------------------------------------------------------------------------


def outside_difference(frames: Images, source: Images, mask: Planes) -> int:
    """The largest absolute difference of a channel outside the mask, 0 to 255 grey levels; 0 = exact."""
    return max(
        int(np.abs(_difference(a, b))[~inside].max(initial=0))
        for (a, b), inside in _together(frames, source, region=mask)
    )


def changed_share(frames: Images, source: Images, mask: Planes) -> float:
    """The share of the mask's pixels, 0 to 1, that clearly differ from the source.

    Raises:
        InputError: the mask is empty.
    """
    changed = count = 0
    for (a, b), inside in _together(frames, source, region=mask):
        changed += int((_clearly_different(a, b) & inside).sum())
        count += int(inside.sum())
    return changed / _something(count)


def flow_similarity(frames: Images, source: Images, mask: Planes) -> float:
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
    apart, whole, count = 0.0, 0.0, 0
    for (now, inside), (after, _) in pairwise(_together(frames, source, region=mask)):
        if inside.any():
            ours, theirs = (_flow(a, b)[inside].astype(np.float64) for a, b in zip(now, after, strict=True))
            apart += float(_length(ours - theirs).sum())
            whole += float((_length(ours) + _length(theirs) + FLOW_REST_PX).sum())
            count += int(inside.sum())
    _something(count)
    return 1 - apart / whole


def flicker(frames: Images, source: Images, mask: Planes) -> float:
    """How unsteady the edit is, in grey levels: lower is steadier.

    The mean over the mask of how far each pixel is from the average of the frame before and the frame after, both
    followed along the source's optical flow, which is half the second difference in time. A fade costs nothing. Blur
    from following and what is covered and uncovered do, so compare with ``flicker(source, source, mask)``.

    Raises:
        ShapeError: the three do not fit together.
        InputError: the clip has fewer than three frames, or the mask is empty in all but the first and the last.
    """
    total, count = 0.0, 0
    for before, (now, inside), after in _triples(_together(frames, source, region=mask)):
        if inside.any():
            around = [_followed(near[0][0], _flow(now[1], near[0][1])) for near in (before, after)]
            total += float(np.abs(now[0] - (around[0] + around[1]) / 2)[inside].sum())
            count += int(inside.sum())
    return total / (3 * _something(count))


def input_similarity(embed: Embed, frames: Images, source: Images) -> float:
    """The paper's Input Similarity: mean cosine, -1 to 1, between each result frame and its source frame."""
    return _mean(
        float((embed(a[None]).astype(np.float64) * embed(b[None])).sum()) for (a, b), _ in _together(frames, source)
    )


def first_frame_similarity(embed: Embed, frames: Images, edited_first: Image) -> float:
    """Mean cosine, -1 to 1, between the user's edited first frame and each result frame after it.

    The first result frame is left out, for inside the mask it is the user's own; a clip of one frame is that frame.
    """
    first = embed(edited_first[None])
    every = [float((embed(frame[None]).astype(np.float64) * first).sum()) for frame in frames]
    return _mean(every[1:] or every)


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


def _together(*clips: Images, region: Planes | None = None) -> Iterator[tuple[tuple[Image, ...], Plane]]:
    """The frames of clips side by side with their region, which is everywhere if it is not given.

    Raises:
        ShapeError: they do not fit together.
    """
    ended = object()
    for index, (*frames, plane) in enumerate(zip_longest(*clips, _everywhere(region), fillvalue=ended)):
        if plane is None and any(frame is not ended for frame in frames):
            plane = np.ones(next(frame for frame in frames if frame is not ended).shape[:2], np.bool_)
        elif plane is None:
            return
        shapes = ["missing" if each is ended else list(each.shape[:2]) for each in (*frames, plane)]
        if any(shape != shapes[0] for shape in shapes):
            raise ShapeError(
                f"What is compared must have the same frames, height and width, but frame {index} is {shapes}."
            )
        yield tuple(frames), plane


def _everywhere(region: Planes | None) -> Iterable[Any]:
    return repeat(None) if region is None else region


def _triples(each: Iterator[_Value]) -> Iterator[tuple[_Value, _Value, _Value]]:
    """Every one but the first and the last, with those next to it."""
    for (before, now), (_, after) in pairwise(pairwise(each)):
        yield before, now, after


def _something(count: int) -> int:
    """How many pixels were measured, which is not none."""
    if not count:
        raise InputError("The region is empty in the frames that are measured, so there is nothing to average.")
    return count


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
    estimator = open_estimator(Size(*first.shape[:2]), FlowOptions("dis", FLOW_SHORT_SIDE))
    return flow_between(estimator, first, second)


def _followed(image: Image, flow: Field) -> Field:
    """``[H, W, 3]``: the image where the flow leads, the border repeated beyond it."""
    return sample_at(image, pixel_grid(flow) + flow)


def _length(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.hypot(vectors[..., 0], vectors[..., 1]))


def _mean(values: Iterable[float]) -> float:
    every = list(values)
    return sum(every) / len(every)
