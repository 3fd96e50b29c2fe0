"""Derives a loose mask from edited frames: tracks what they change, together with the object that it sits on.

changed_region      where an edited frame differs from the source
_supporting_object  the moving object that the change sits on or touches: a new hat moves with the head
FlowTracker         that object, in every frame
_move_along         the whole change, moved by the rotation, scale and shift of that object, new outlines included
_loosen             both together, with a margin, as boxes, and smooth over time
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from loraedit.errors import InputError
from loraedit.masks.shaping import box_regions
from loraedit.optical_flow.fields import Field, pixel_grid, sample_at
from loraedit.settings import DEFAULT_MARGIN
from loraedit.tracking.base import Hints, Planes, Tracker
from loraedit.tracking.changes import changed_region, name_of_frame
from loraedit.tracking.embedded import FlowTracker, track_small
from loraedit.tracking.motion import camera_flow, fit_similarity, warp_mask
from loraedit.tracking.regions import (
    closed,
    connected_parts,
    filled,
    grabcut,
    grown,
    opened,
    shrunk,
    touching,
    without_small_parts,
)
from loraedit.tracking.tools import hulls
from loraedit.tracking.view import View
from loraedit.types import Footage, Image, Mask, OnStep, Plane, no_step

__all__ = ["LooseMaskOptions", "loosen_mask", "mask_from_edit", "track_loose_mask"]

_Matrix = NDArray[np.float64]

MAX_OBJECTS = 4
"""The most parts of an edit that are tracked separately."""
MOTION_FRAMES = 10
"""Number of frames over which the motion of an object is measured."""
MIN_MOTION_PX = 1.2
"""Motion relative to the background, in pixels, from which on something counts as moving."""


@dataclass(frozen=True)
class LooseMaskOptions:
    """Describes how loose a mask is.

    Attributes:
        margin: added on each side, as a share of a region's width and height.
        shape: the shape of each region: its ``box`` (limited to the vicinity of the region), its convex ``hull``, or
            its own ``outline``.
    """

    margin: float = DEFAULT_MARGIN
    shape: Literal["box", "hull", "outline"] = "box"


def mask_from_edit(
    source: Footage,
    edits: Mapping[int, Image],
    options: LooseMaskOptions | None = None,
    tracker: Tracker | None = None,
    on_step: OnStep = no_step,
) -> Planes:
    """Derives a loose mask for a clip from its edited frames alone.

    Args:
        source: the clip; its frames are kept in memory at the tracking size only.
        edits: edited frames by frame index from 0, uint8 ``[H, W, 3]``; at least one.
        options: how loose the mask is; None means ``LooseMaskOptions()``.
        tracker: tracks the object that is edited; None means the embedded tracker.
        on_step: called with (frames done, frames in all).

    Returns:
        The mask of every frame, True = edit.

    Raises:
        InputError: an edited frame is identical to the source, or differs nearly everywhere; or the mask would fill the
            clip.
    """
    view = View(source)
    regions = {
        index: changed_region(view.frame(index), edit, name_of_frame(index)) for index, edit in sorted(edits.items())
    }
    return track_loose_mask(view, regions, options, tracker, on_step)


def track_loose_mask(
    view: View,
    regions: Mapping[int, Plane],
    options: LooseMaskOptions | None = None,
    tracker: Tracker | None = None,
    on_step: OnStep = no_step,
) -> Planes:
    """Tracks regions that are known in some frames through the clip, and makes the mask loose.

    Args:
        view: the clip.
        regions: by frame index, bool ``[H, W]``, True = edit; at least one.
        options: how loose the mask is; None means ``LooseMaskOptions()``.
        tracker: tracks the object; None means the embedded tracker.
        on_step: called with (frames done, frames in all).

    Returns:
        The mask of every frame, True = edit; it covers ``regions`` in their frames.

    Raises:
        InputError: the mask would fill the whole clip.
    """
    follower = _MaskTracker(view, options or LooseMaskOptions(), tracker or FlowTracker())
    return _at_clip_size(view, follower.track({k: view.scale.plane(v) for k, v in regions.items()}, on_step), regions)


def loosen_mask(view: View, tight: Sequence[Plane], options: LooseMaskOptions) -> Planes:
    """Makes the tight mask of an object loose: adds a margin, simplifies the outline, and smooths it over time.

    Raises:
        InputError: the mask would fill the whole clip.
    """
    small = np.stack([view.scale.plane(plane) for plane in tight])
    return _at_clip_size(view, _loosen(small, options), {})


def _at_clip_size(view: View, small: Mask, regions: Mapping[int, Plane]) -> Planes:
    """Returns a mask ``[F, h, w]`` at the clip's own size; adds regions that are known in some frames."""

    def plane(index: int) -> Plane:
        large = view.scale.back(small[index])
        return large | regions[index] if index in regions else large

    tube = Planes(len(small), plane)
    if small.all() and all(each.all() for each in tube):
        raise InputError("The mask derived from the edit fills the whole clip. Set the edit zone with --mask.")
    return tube


@dataclass(frozen=True)
class _MaskTracker:
    """Tracks edited regions through a clip; all masks have the tracking size.

    Attributes:
        view: the clip.
        options: how loose the mask is.
        tracker: tracks one object.
    """

    view: View
    options: LooseMaskOptions
    tracker: Tracker

    def track(self, regions: Mapping[int, Plane], on_step: OnStep) -> Mask:
        """Tracks each separate part of the regions, and returns the union of their masks, bool ``[F, H, W]``."""
        objects: list[tuple[dict[int, Plane], Mask]] = []
        todo = [(index, part) for index, region in sorted(regions.items()) for part in _split(region)]
        for order, (index, part) in enumerate(todo):
            overlapping = max(objects, key=lambda item: int((item[1][index] & part).sum()), default=None)
            seeds = {index: part}
            if overlapping is not None and _belongs_to(overlapping[0], overlapping[1][index], index, part):
                objects = [item for item in objects if item is not overlapping]
                seeds = {**overlapping[0], index: overlapping[0].get(index, part) | part}
            objects.append((seeds, self._track_object(seeds, _share_of_progress(on_step, order, len(todo)))))
        return np.asarray(np.any([tube for _, tube in objects], axis=0))

    def _track_object(self, seeds: Mapping[int, Plane], on_step: OnStep) -> Mask:
        """Returns the loose mask of one object."""
        supports = {index: _supporting_object(self.view, index, seed) for index, seed in seeds.items()}
        tight = self._track_tightly(supports, on_step)
        region = tight.copy()
        for index, seed in seeds.items():
            region |= _move_along(self.view, tight, index, seed, _span(index, sorted(seeds), len(tight)))
        return _loosen(region, self.options)

    def _track_tightly(self, supports: Mapping[int, Plane], on_step: OnStep) -> Mask:
        """Runs the tracker; the embedded one works at the tracking size anyway."""
        scale = self.view.scale
        if isinstance(self.tracker, FlowTracker):
            return track_small(self.view, supports, on_step)
        shown = {index: Hints(mask=scale.back(support)) for index, support in supports.items()}
        return np.stack([scale.plane(plane) for plane in self.tracker.track(self.view, shown, on_step)])


def _split(region: Plane) -> list[Plane]:
    """Splits a region into separate parts, the largest first; parts beyond ``MAX_OBJECTS`` join the first."""
    joined = closed(region, max(2, round(0.15 * float(np.sqrt(region.sum())))))
    found = connected_parts(joined)
    first, rest = found[:MAX_OBJECTS], found[MAX_OBJECTS:]
    return [region & (np.any([part, *rest], axis=0) if not order else part) for order, part in enumerate(first)]


def _belongs_to(seeds: Mapping[int, Plane], tube: Plane, index: int, part: Plane) -> bool:
    """Returns whether a part belongs to a tracked object.

    It does if it overlaps the mask of the object; in a frame that has a seed, if most of it does.
    """
    overlap = (tube & part).sum()
    return bool(overlap > 0.5 * part.sum() if index in seeds else overlap > 0)


def _share_of_progress(on_step: OnStep, order: int, count: int) -> OnStep:
    """Returns the progress callback of one of several equal tasks."""
    return lambda done, total: on_step(order * total + done, count * total)


def _supporting_object(view: View, index: int, region: Plane) -> Plane:
    """Returns the object that a region sits on: the region itself, or what moves in it and next to it.

    Args:
        view: the clip.
        index: frame of the region.
        region: bool ``[h, w]``.
    """
    reach = max(4, round(0.5 * float(np.sqrt(region.sum()))))
    moving = opened(_moving(view, index, region, reach), 1)
    if (moving & region).sum() >= 0.7 * region.sum():
        return region
    near = touching(moving & grown(region, reach), grown(region, 4))
    if near.sum() < 0.15 * region.sum():
        return region
    likely = np.asarray(cv2.GaussianBlur(near.astype(np.float32), (0, 0), 2.0), np.float32)
    found = grabcut(view.images[index], likely, shrunk(near, 5), ~grown(near, 3), rounds=2)
    return without_small_parts(found, 0.1) if found.sum() > 0.4 * near.sum() else near


def _moving(view: View, index: int, region: Plane, reach: int) -> Plane:
    """Returns what moves relative to the background in the next frames; at the end of the clip, in the last ones."""
    ahead = range(index, min(index + MOTION_FRAMES, len(view) - 1) + 1)
    behind = range(index, max(index - MOTION_FRAMES, 0) - 1, -1)
    matches = [view.match(one, other) for one, other in pairwise(ahead if len(ahead) >= len(behind) else behind)]
    still = ~grown(region, reach)
    distance, flow = np.zeros(region.shape, np.float32), np.zeros((*region.shape, 2), np.float32)
    visible = np.ones(region.shape, np.bool_)
    for match in matches:
        there = pixel_grid(flow) + flow
        visible &= sample_at(match.forward_agrees, there) > 0.5
        flow = flow + sample_at(match.forward, there)
        relative = np.linalg.norm(flow - camera_flow(flow, still & visible), axis=-1)
        distance = np.where(visible, np.maximum(distance, relative), distance)
    usual = float(np.quantile(distance[grown(region, reach)], 0.9))
    return np.asarray(distance > max(MIN_MOTION_PX, 0.35 * usual))


def _span(index: int, keys: Sequence[int], frames: int) -> range:
    """Returns the frames from the known frame before to the known frame after."""
    before = [key for key in keys if key < index]
    after = [key for key in keys if key > index]
    return range(before[-1] if before else 0, (after[0] if after else frames - 1) + 1)


def _move_along(view: View, tight: Mask, key: int, region: Plane, span: range) -> Mask:
    """Moves a region of one frame along with an object, bool ``[F, h, w]``; False outside ``span``.

    Args:
        view: the clip.
        tight: bool ``[F, h, w]``, the object.
        key: frame of the region.
        region: bool ``[h, w]``.
        span: the frames to move it to.
    """
    moved = np.zeros_like(tight)
    moved[key] = region
    for frames, direction in ((range(key + 1, span.stop), 1), (range(key - 1, span.start - 1, -1), -1)):
        total, last = np.eye(3), np.eye(3)
        for index in frames:
            previous = index - direction
            match = view.match(previous, index)
            last = _fit_step(match.forward, match.forward_agrees & shrunk(tight[previous], 1), last)
            total = _pull_to_centre(last @ total, tight[key], tight[index])
            moved[index] = warp_mask(region, np.asarray(total[:2], np.float32))
    return moved


def _fit_step(flow: Field, where: Plane, last: _Matrix) -> _Matrix:
    """Fits the motion ``[3, 3]`` of an object to the next frame; out of sight, the object keeps its last motion."""
    points = pixel_grid(flow)[where]
    fitted = fit_similarity(points, points + flow[where])
    if fitted is None:
        drift = np.eye(3)
        drift[:2, 2] = last[:2, 2] if not where.any() else np.median(flow[where], axis=0)
        return drift
    return np.vstack([fitted, [0, 0, 1]])


def _pull_to_centre(total: _Matrix, first: Plane, now: Plane) -> _Matrix:
    """Pulls a motion towards the visible position of the object, if its visible area is about as large as at first.

    A turning object has a flow that runs across it, while its outline stays in place.
    """
    scale = abs(float(np.linalg.det(total[:2, :2])))
    if not 0.75 < now.sum() / max(first.sum() * scale, 1) < 1.33:
        return total
    here, there = (np.array([np.mean(axis) for axis in np.nonzero(each)][::-1]) for each in (first, now))
    pulled = total.copy()
    pulled[:2, 2] += 0.3 * (there - (total[:2, :2] @ here + total[:2, 2]))
    return pulled


def _loosen(tight: Mask, options: LooseMaskOptions) -> Mask:
    """Makes a mask loose: unites neighbouring frames, closes gaps, adds a margin, and simplifies the shape."""
    wide = tight.copy()
    wide[1:] |= tight[:-1]
    wide[:-1] |= tight[1:]
    tidy = np.stack([_tidied(plane) for plane in wide])
    if options.shape == "box":
        near = [grown(plane, max(2, _extent_px(plane, 0.2 + options.margin))) for plane in tidy]
        return box_regions(tidy, options.margin) & np.stack(near)
    wider = [grown(plane, _extent_px(plane, options.margin)) for plane in tidy]
    return np.stack([hulls(plane) for plane in wider] if options.shape == "hull" else wider)


def _tidied(plane: Plane) -> Plane:
    """Closes gaps, removes small parts and fills holes."""
    gap = max(2, round(0.12 * float(np.sqrt(plane.sum()))))
    return grown(filled(without_small_parts(closed(plane, gap), 0.04)), 1)


def _extent_px(plane: Plane, share: float) -> int:
    """Returns a share of the size of a region in pixels. It limits boxes, which are mostly empty around diagonals."""
    return round(share * float(np.sqrt(plane.sum())))
