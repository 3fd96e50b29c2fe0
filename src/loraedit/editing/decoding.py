"""Decodes the latents of a segment to frames at the window's size, in the colours of the frames below."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from loraedit.editing.context import EditContext
from loraedit.editing.target_clip import ClipKeyframe, TargetClip
from loraedit.job.segments import Segment
from loraedit.masks.colour_match import match_colours
from loraedit.types import Frames, Image, Mask, Plane
from loraedit.video.scaling import from_working

__all__ = ["decode_segment", "painted_light", "unchanged_pixels"]

SAME = 2
"""Largest difference in grey levels between an edited frame and the frame below where nothing is edited."""

LIGHT_PX = 64
"""Largest short side in which the light of edited frames is kept: it varies slowly."""

ROOM = 0.05
"""Share of the window's short side by which what an edit changes is grown."""

_Levels = NDArray[np.float32]  # [h', w', 3], or [F, h', w', 3]


def decode_segment(context: EditContext, clip: TargetClip, latents: Tensor, segment: Segment) -> Frames:
    """Decodes latents to the segment's frames at the window's size, uint8 ``[F, h, w, 3]``.

    Unless the settings say otherwise, the colours inside the mask are matched to the frames below.
    """
    with torch.inference_mode():
        pixels = context.family.decode(latents, context.device)[: len(segment)]
    frames = from_working(pixels, clip.target.window.size)
    if not context.settings.match_colours:
        return frames
    below, mask = clip.below.span(segment.start, segment.stop), clip.mask(segment.start, segment.stop)
    return match_colours(frames, below, mask, unchanged_pixels(clip, mask), painted_light(clip, segment, mask))


def unchanged_pixels(clip: TargetClip, mask: Mask) -> Mask:
    """Returns where the edit is expected to leave pixels inside the mask as they are, bool ``[F, h, w]``.

    What an edited frame changes is looked up there at the same place within the bounding box of the mask, which follows
    the object. An edited frame whose mask is empty says nothing.

    Args:
        clip: the target's clip.
        mask: the edit mask of some frames, ``[F, h, w]``.
    """
    changes = [change for keyframe in clip.keyframes if (change := _change(clip, keyframe)) is not None]
    unchanged = np.zeros_like(mask)
    if not changes:
        return unchanged
    for plane, inside in zip(unchanged, mask, strict=True):
        if inside.any():
            box = _bounding_box(inside)
            height, width = plane[box].shape
            changed = [cv2.resize(each, (width, height), interpolation=cv2.INTER_NEAREST) > 0 for each in changes]
            plane[box] = inside[box] & ~np.logical_or.reduce(changed)
    return unchanged


def painted_light(clip: TargetClip, segment: Segment, mask: Mask) -> _Levels:
    """Returns what the edited frames add to the frames below outside the mask, in grey levels.

    It follows the bounding box of the mask, and changes linearly in time from one edited frame to the next. An edited
    frame whose mask is empty says nothing.

    Args:
        clip: the target's clip.
        segment: some frames of the clip.
        mask: their edit mask, ``[F, h, w]``.

    Returns:
        float32 ``[F, h', w', 3]``, reduced in size.
    """
    scale = max(min(mask.shape[1:]) / LIGHT_PX, 1)
    height, width = (max(round(side / scale), 1) for side in mask.shape[1:])
    light = np.zeros((len(mask), height, width, 3), np.float32)
    keyframes = sorted(clip.keyframes, key=lambda keyframe: keyframe.index)
    masks = {each.index: clip.mask(each.index, each.index + 1)[0] for each in keyframes}
    telling = [each for each in keyframes if masks[each.index].any()]
    times = [each.index for each in telling]
    for keyframe, pulse in zip(telling, np.eye(len(telling)), strict=True):
        outside = ~masks[keyframe.index]
        added = _added(keyframe.edited, clip.below.frame(keyframe.index), outside, (width, height))
        weights = np.interp(range(segment.start, segment.stop), times, pulse)
        for index in np.flatnonzero((weights > 0) & mask.any((1, 2)) & added.any()):
            light[index] += weights[index] * _moved(added, ~outside, mask[index])
    return light


def _added(edited: Image, below: Image, where: Plane, size: tuple[int, int]) -> _Levels:
    """Returns the mean of ``edited - below`` over the given pixels of each cell, ``[h', w', 3]``; 0 without any."""
    weights = where.astype(np.float32)
    difference = cv2.subtract(edited, below, dtype=cv2.CV_32F) * weights[..., None]
    total, count = (cv2.resize(each, size, interpolation=cv2.INTER_AREA) for each in (difference, weights))
    return np.asarray(total / np.maximum(count, 1e-6)[..., None], np.float32)


def _moved(plane: _Levels, before: Plane, after: Plane) -> _Levels:
    """Moves and scales a reduced plane as the bounding box of a mask moves and scales from ``before`` to ``after``."""
    height, width = plane.shape[:2]
    cell = after.shape[1] / width, after.shape[0] / height
    matrix = cv2.getAffineTransform(_corners(before, cell), _corners(after, cell))
    return np.asarray(cv2.warpAffine(plane, matrix, (width, height), borderMode=cv2.BORDER_REPLICATE), np.float32)


def _corners(mask: Plane, cell: tuple[float, float]) -> NDArray[np.float32]:
    """Returns three corners of the bounding box as x, y in cells, counted from the centre of the first one."""
    x, y, width, height = cv2.boundingRect(mask.astype(np.uint8))
    corners = np.array([[x, y], [x + width, y], [x, y + height]], np.float32)
    return np.asarray(corners / cell - 0.5, np.float32)


def _change(clip: TargetClip, keyframe: ClipKeyframe) -> NDArray[np.uint8] | None:
    """Returns what a keyframe changes within the bounding box of its mask, 1 or 0; None if the mask is empty there."""
    mask = clip.mask(keyframe.index, keyframe.index + 1)[0]
    if not mask.any():
        return None
    changed = (cv2.absdiff(keyframe.edited, keyframe.source).max(-1) > SAME) & mask
    reach = 2 * round(ROOM * min(mask.shape)) + 1
    grown = cv2.dilate(changed.astype(np.uint8), cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (reach, reach)))
    return np.asarray(grown, np.uint8)[_bounding_box(mask)]


def _bounding_box(mask: Plane) -> tuple[slice, slice]:
    x, y, width, height = cv2.boundingRect(mask.astype(np.uint8))
    return slice(y, y + height), slice(x, x + width)
