"""Metrics of an edited clip that need no true edit, as pure functions.

Clips are iterables of frames, uint8 ``[H, W, 3]``. Masks are iterables of planes, bool ``[H, W]``. All have the same
number and size, and an array with a leading axis F is accepted. Each is read once, so a long clip need not be in
memory. Differences are in grey levels of 0 to 255. Empty masks are refused, because there is nothing to average.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from loraedit.evaluate.frames import Images, Planes, aligned, clearly_different, difference, nonempty
from loraedit.optical_flow.base import FlowOptions
from loraedit.optical_flow.estimators import flow_between, open_estimator
from loraedit.optical_flow.fields import Field, pixel_grid, sample_at
from loraedit.types import Frames, Image, Size

__all__ = [
    "Embed",
    "changed_share",
    "first_frame_similarity",
    "flicker",
    "flow_similarity",
    "input_similarity",
    "outside_difference",
]

_Value = TypeVar("_Value")

Embed = Callable[[Frames], NDArray[np.float32]]
"""An image encoder: uint8 ``[F, H, W, 3]`` to one vector of length 1 per frame, ``[F, D]``."""

FLOW_SHORT_SIDE = 224
"""Smaller frames are enlarged to this short side before the flow is measured."""

FLOW_REST_PX = 0.1
"""Displacement below which two flows count as alike: about what noise alone makes of a region at rest."""


def outside_difference(frames: Images, source: Images, mask: Planes) -> int:
    """Returns the largest absolute difference of a channel outside the mask, 0 to 255 grey levels; 0 is exact."""
    return max(
        int(np.abs(difference(a, b))[~inside].max(initial=0)) for (a, b), inside in aligned(frames, source, region=mask)
    )


def changed_share(frames: Images, source: Images, mask: Planes) -> float:
    """Returns the share of the mask's pixels that clearly differ from the source, 0 to 1.

    Raises:
        InputError: the mask is empty.
    """
    changed = count = 0
    for (a, b), inside in aligned(frames, source, region=mask):
        changed += int((clearly_different(a, b) & inside).sum())
        count += int(inside.sum())
    return changed / nonempty(count)


def flow_similarity(frames: Images, source: Images, mask: Planes) -> float:
    """Measures how well the motion of the edit equals that of the source, 0 to 1; 1 is equal motion.

    With a and b the optical flow (DIS) of result and source from each frame to the next, over the pixels inside the
    mask of the earlier frame::

        1 - sum |a - b| / sum (|a| + |b| + 0.1 px)

    Faster pixels count more. A result that stands still where the source moves, or moves the other way, scores near 0.
    Where both stand still, the score is 1. Optical flow needs texture: in a flat region it is a guess.

    Raises:
        ShapeError: frame counts, heights or widths differ.
        InputError: the clip has a single frame, or the mask is empty in all frames but the last.
    """
    apart, whole, count = 0.0, 0.0, 0
    for (now, inside), (after, _) in pairwise(aligned(frames, source, region=mask)):
        if inside.any():
            edited, original = (_flow(a, b)[inside].astype(np.float64) for a, b in zip(now, after, strict=True))
            apart += float(_length(edited - original).sum())
            whole += float((_length(edited) + _length(original) + FLOW_REST_PX).sum())
            count += int(inside.sum())
    nonempty(count)
    return 1 - apart / whole


def flicker(frames: Images, source: Images, mask: Planes) -> float:
    """Measures how unsteady the edit is, in grey levels; lower is steadier.

    For each pixel of the mask, takes its difference from the average of the frame before and the frame after, both
    warped along the source's optical flow. This is half the second difference in time, so a fade costs nothing. Blur
    from warping and occlusions do cost, so compare with ``flicker(source, source, mask)``.

    Raises:
        ShapeError: frame counts, heights or widths differ.
        InputError: the clip has fewer than three frames, or the mask is empty in all but the first and the last.
    """
    total, count = 0.0, 0
    for before, (now, inside), after in _triples(aligned(frames, source, region=mask)):
        if inside.any():
            warped = [_warp(near[0][0], _flow(now[1], near[0][1])) for near in (before, after)]
            total += float(np.abs(now[0] - (warped[0] + warped[1]) / 2)[inside].sum())
            count += int(inside.sum())
    return total / (3 * nonempty(count))


def input_similarity(embed: Embed, frames: Images, source: Images) -> float:
    """Returns the paper's Input Similarity: the mean cosine of each result frame and its source frame, -1 to 1."""
    return _mean(
        float((embed(a[None]).astype(np.float64) * embed(b[None])).sum()) for (a, b), _ in aligned(frames, source)
    )


def first_frame_similarity(embed: Embed, frames: Images, edited_first: Image) -> float:
    """Returns the mean cosine of the user's edited first frame and each result frame after it, -1 to 1.

    The first result frame is left out, because inside the mask it is the user's own. A clip of one frame is that frame.
    """
    first = embed(edited_first[None])
    every = [float((embed(frame[None]).astype(np.float64) * first).sum()) for frame in frames]
    return _mean(every[1:] or every)


def _triples(values: Iterator[_Value]) -> Iterator[tuple[_Value, _Value, _Value]]:
    """Yields every value but the first and the last, with those before and after it."""
    for (before, now), (_, after) in pairwise(pairwise(values)):
        yield before, now, after


def _flow(first: Image, second: Image) -> Field:
    """Returns the displacement of each pixel from the first image to the second."""
    estimator = open_estimator(Size(*first.shape[:2]), FlowOptions("dis", FLOW_SHORT_SIDE))
    return flow_between(estimator, first, second)


def _warp(image: Image, flow: Field) -> Field:
    """Samples an image where the flow points, ``[H, W, 3]``; beyond the border, its edge pixels repeat."""
    return sample_at(image, pixel_grid(flow) + flow)


def _length(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.hypot(vectors[..., 0], vectors[..., 1]))


def _mean(values: Iterable[float]) -> float:
    every = list(values)
    return sum(every) / len(every)
