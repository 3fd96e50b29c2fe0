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
from loraedit.types import Frames, Mask, Plane
from loraedit.video.scaling import from_working

__all__ = ["decode_segment", "unchanged_pixels"]

SAME = 2
"""Largest difference in grey levels between an edited frame and the frame below where nothing is edited."""

ROOM = 0.05
"""Share of the window's short side by which what an edit changes is grown."""


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
    return match_colours(frames, below, mask, unchanged_pixels(clip, mask))


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
