"""A loose mask without work: what the edited frames change, followed through the clip together with what it sits on.

changed_region   where an edited frame differs from the source's
_carrier         the moving thing that this lies on, or touches: a new hat moves with the head
FlowTracker      that thing, in every frame
_drift           its motion as plain turns, scales and shifts, which take the whole region along, new outlines too
_tube            both together, with a margin, boxed, and steady over time
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import overload

import cv2
import numpy as np
from numpy.typing import NDArray

from loraedit.errors import InputError
from loraedit.mask_tube import MaskTube
from loraedit.masks import box_regions
from loraedit.optical_flow import Field, at, grid
from loraedit.tracking.base import Plane, Tracker
from loraedit.tracking.changes import changed_region, name_of_frame
from loraedit.tracking.embedded import FlowTracker
from loraedit.tracking.motion import Matcher, Step, camera, fit_similarity, move
from loraedit.tracking.regions import closed, cut, filled, grown, opened, parts, shrunk, touching, without_islands
from loraedit.tracking.scale import Scale
from loraedit.types import Footage, Image, Mask, OnStep, Size, no_step

__all__ = ["MARGIN", "loose_tube", "mask_from_edit", "tight_tube"]

_Matrix = NDArray[np.float64]

MARGIN = 0.15
"""Share of a region's width and height added on each side."""
MOST_THINGS = 4
"""Parts of an edit that are followed each for itself."""
LOOK_AHEAD = 10
"""Frames over which a thing is seen to move."""
MOVING_PX = 1.2
"""Motion against the background, in pixels, from which on something moves."""


def mask_from_edit(
    source: Footage,
    edits: Mapping[int, Image],
    margin: float = MARGIN,
    tracker: Tracker | None = None,
    on_step: OnStep = no_step,
) -> MaskTube:
    """A loose mask for a clip, from its edited frames alone.

    Args:
        source: the clip.
        edits: edited frames by frame index from 0, uint8 ``[H, W, 3]``; at least one.
        margin: added on each side, as a share of the width and height.
        tracker: follows the thing that is edited; the embedded one if None.
        on_step: told (frames done, frames in all).

    Returns:
        One plane for each frame, True = edit.

    Raises:
        InputError: an edited frame equals the source's, or differs nearly everywhere; or the mask would fill the clip.
    """
    regions = {
        index: changed_region(next(source.rgb(index, index + 1)), edit, name_of_frame(index))
        for index, edit in sorted(edits.items())
    }
    return loose_tube(source, regions, margin, tracker, on_step)


def loose_tube(
    source: Footage,
    regions: Mapping[int, Plane],
    margin: float = MARGIN,
    tracker: Tracker | None = None,
    on_step: OnStep = no_step,
) -> MaskTube:
    """Follow regions that are known in some frames through the clip, loosely.

    Args:
        source: the clip.
        regions: by frame index, bool ``[H, W]``, True = edit; at least one.
        margin: added on each side, as a share of the width and height.
        tracker: follows the thing; the embedded one if None.
        on_step: told (frames done, frames in all).

    Returns:
        One plane for each frame, True = edit, covering ``regions`` in their frames.

    Raises:
        InputError: the mask would fill the whole clip.
    """
    scale, images = _at_tracking_size(source)
    follow = _Follower(images, _Steps(images), margin, tracker or FlowTracker())
    small = follow({k: scale.plane(v) for k, v in regions.items()}, on_step)
    large = (scale.back(plane) for plane in small)
    tube = MaskTube(plane | regions[index] if index in regions else plane for index, plane in enumerate(large))
    if tube.all():
        raise InputError("The mask made from the edit fills the whole clip. Say with --mask where to edit.")
    return tube


def tight_tube(
    source: Footage, regions: Mapping[int, Plane], tracker: Tracker | None = None, on_step: OnStep = no_step
) -> MaskTube:
    """Follow one thing that is known in some frames through the clip, tightly; arguments as of :func:`loose_tube`.

    Returns:
        One plane for each frame, True = object.
    """
    scale, images = _at_tracking_size(source)
    seeds = {index: scale.plane(region) for index, region in regions.items()}
    small = (tracker or FlowTracker()).track(np.stack(images), seeds, on_step)
    return MaskTube(regions[index] if index in regions else scale.back(plane) for index, plane in enumerate(small))


def _at_tracking_size(source: Footage) -> tuple[Scale, list[Image]]:
    scale = Scale.of(next(source.rgb(0, 1))[None])
    return scale, [scale.image(frame) for frame in source.rgb()]


class _Steps(Sequence[Step]):
    """The matches between neighbouring images, made when they are asked for; the last ones are kept."""

    def __init__(self, images: Sequence[Image]) -> None:
        self._images, self._matcher = images, Matcher(Size(*images[0].shape[:2]))
        self._match = lru_cache(4 * LOOK_AHEAD)(self._matched)

    def __len__(self) -> int:
        return len(self._images) - 1

    @overload
    def __getitem__(self, index: int) -> Step: ...

    @overload
    def __getitem__(self, index: slice) -> list[Step]: ...

    def __getitem__(self, index: int | slice) -> Step | list[Step]:
        if isinstance(index, slice):
            return [self._match(each) for each in range(len(self))[index]]
        return self._match(range(len(self))[index])

    def _matched(self, index: int) -> Step:
        return self._matcher.step(self._images[index], self._images[index + 1])


@dataclass(frozen=True)
class _Follower:
    """A clip at the size of tracking, and how to follow something through it.

    Attributes:
        images: uint8 ``[H, W, 3]`` each.
        steps: the matches between them.
        margin: added on each side, as a share of the width and height.
        tracker: follows one thing.
    """

    images: Sequence[Image]
    steps: Sequence[Step]
    margin: float
    tracker: Tracker

    def __call__(self, regions: Mapping[int, Plane], on_step: OnStep) -> Mask:
        """The tube of all things edited, bool ``[F, H, W]``: each part that is for itself has a tube of its own."""
        things: list[tuple[dict[int, Plane], Mask]] = []
        todo = [(index, part) for index, region in sorted(regions.items()) for part in _apart(region)]
        for order, (index, part) in enumerate(todo):
            met = max(things, key=lambda thing: int((thing[1][index] & part).sum()), default=None)
            seeds = {index: part}
            if met is not None and (met[1][index] & part).any():
                things = [thing for thing in things if thing is not met]
                seeds = {**met[0], index: met[0].get(index, part) | part}
            things.append((seeds, self._one(seeds, _shared(on_step, order, len(todo)))))
        return np.asarray(np.any([tube for _, tube in things], axis=0))

    def _one(self, seeds: Mapping[int, Plane], on_step: OnStep) -> Mask:
        """The tube of one thing."""
        carriers = {index: _carrier(self.images, self.steps, index, seed) for index, seed in seeds.items()}
        tight = self.tracker.track(np.stack(self.images), carriers, on_step)
        region = tight.copy()
        for index, seed in seeds.items():
            region |= _taken_along(self.steps, tight, index, seed, _span(index, sorted(seeds), len(tight)))
        return _tube(region, self.margin)


def _apart(region: Plane) -> list[Plane]:
    """The parts of a region that lie well apart, the largest first; small ones beyond the first few go with it."""
    joined = closed(region, max(2, round(0.15 * float(np.sqrt(region.sum())))))
    found = parts(joined)
    first, rest = found[:MOST_THINGS], found[MOST_THINGS:]
    return [region & (np.any([part, *rest], axis=0) if not order else part) for order, part in enumerate(first)]


def _shared(on_step: OnStep, order: int, count: int) -> OnStep:
    """Progress of one task among several alike."""
    return lambda done, total: on_step(order * total + done, count * total)


def _carrier(images: Sequence[Image], steps: Sequence[Step], index: int, region: Plane) -> Plane:
    """The thing that carries a region: the region itself, or what moves in it and next to it.

    Args:
        images: uint8 ``[H, W, 3]`` each.
        steps: the matches between them.
        index: frame of the region.
        region: bool ``[H, W]``.
    """
    reach = max(4, round(0.5 * float(np.sqrt(region.sum()))))
    moving = opened(_moving(steps, index, region, reach), 1)
    if (moving & region).sum() >= 0.7 * region.sum():
        return region
    near = touching(moving & grown(region, reach), grown(region, 4))
    if near.sum() < 0.15 * region.sum():
        return region
    likely = np.asarray(cv2.GaussianBlur(near.astype(np.float32), (0, 0), 2.0), np.float32)
    found = cut(images[index], likely, shrunk(near, 5), ~grown(near, 3), rounds=2)
    return without_islands(found, 0.1) if found.sum() > 0.4 * near.sum() else near


def _moving(steps: Sequence[Step], index: int, region: Plane, reach: int) -> Plane:
    """What moves against the background within the next frames, or the last ones at the end of the clip."""
    ahead = [(step.forward, step.forward_agrees) for step in steps[index : index + LOOK_AHEAD]]
    behind = [(step.back, step.trust > 0.3) for step in steps[max(index - LOOK_AHEAD, 0) : index][::-1]]
    still = ~grown(region, reach)
    away, way = np.zeros(region.shape, np.float32), np.zeros((*region.shape, 2), np.float32)
    alive = np.ones(region.shape, np.bool_)
    for flow, agrees in ahead if len(ahead) >= len(behind) else behind:
        there = grid(way) + way
        alive &= at(agrees, there) > 0.5
        way = way + at(flow, there)
        apart = np.linalg.norm(way - camera(way, still & alive), axis=-1)
        away = np.where(alive, np.maximum(away, apart), away)
    usual = float(np.quantile(away[grown(region, reach)], 0.9))
    return np.asarray(away > max(MOVING_PX, 0.35 * usual))


def _span(index: int, keys: Sequence[int], frames: int) -> range:
    """The frames up to the known ones before and after."""
    before = [key for key in keys if key < index]
    after = [key for key in keys if key > index]
    return range(before[-1] if before else 0, (after[0] if after else frames - 1) + 1)


def _taken_along(steps: Sequence[Step], tight: Mask, key: int, region: Plane, span: range) -> Mask:
    """A region of one frame taken along by the plain motion of an object, bool ``[F, H, W]``; False outside ``span``.

    Args:
        steps: the matches between neighbouring frames.
        tight: bool ``[F, H, W]``, the object.
        key: frame of the region.
        region: bool ``[H, W]``.
        span: the frames to take it to.
    """
    taken = np.zeros_like(tight)
    taken[key] = region
    for frames, way in ((range(key + 1, span.stop), 1), (range(key - 1, span.start - 1, -1), -1)):
        total, last = np.eye(3), np.eye(3)
        for index in frames:
            flow, good = _flow_of(steps, index, way)
            last = _step_of(flow, good & shrunk(tight[index - way], 1), last)
            total = _centred(last @ total, tight[key], tight[index])
            taken[index] = move(region, np.asarray(total[:2], np.float32))
    return taken


def _flow_of(steps: Sequence[Step], index: int, way: int) -> tuple[Field, Plane]:
    """The flow into a frame from the one before it on the way, and where it can be trusted."""
    step = steps[index - 1] if way > 0 else steps[index]
    return (step.forward, step.forward_agrees) if way > 0 else (step.back, np.asarray(step.trust > 0.3))


def _step_of(flow: Field, where: Plane, last: _Matrix) -> _Matrix:
    """The plain motion ``[3, 3]`` of an object from one frame to the next; out of sight it drifts on as it did."""
    points = grid(flow)[where]
    fitted = fit_similarity(points, points + flow[where])
    if fitted is None:
        onward = np.eye(3)
        onward[:2, 2] = last[:2, 2] if not where.any() else np.median(flow[where], axis=0)
        return onward
    return np.vstack([fitted, [0, 0, 1]])


def _centred(total: _Matrix, first: Plane, now: Plane) -> _Matrix:
    """A motion pulled towards where the object is seen, if as much of it is seen as in the beginning.

    A thing that turns has a flow that runs over it, while its outline stays in place.
    """
    scale = abs(float(np.linalg.det(total[:2, :2])))
    if not 0.75 < now.sum() / max(first.sum() * scale, 1) < 1.33:
        return total
    here, there = (np.array([np.mean(axis) for axis in np.nonzero(each)][::-1]) for each in (first, now))
    pulled = total.copy()
    pulled[:2, 2] += 0.3 * (there - (total[:2, :2] @ here + total[:2, 2]))
    return pulled


def _tube(tight: Mask, margin: float) -> Mask:
    """A region made loose: as it is now, a frame ago and a frame ahead, without gaps, boxed, with a margin."""
    wide = tight.copy()
    wide[1:] |= tight[:-1]
    wide[:-1] |= tight[1:]
    tidy = np.stack([_tidy(plane) for plane in wide])
    boxes = box_regions(tidy, margin)
    return np.stack([box & grown(plane, _far(plane, margin)) for box, plane in zip(boxes, tidy, strict=True)])


def _tidy(plane: Plane) -> Plane:
    gap = max(2, round(0.12 * float(np.sqrt(plane.sum()))))
    return grown(filled(without_islands(closed(plane, gap), 0.04)), 1)


def _far(plane: Plane, margin: float) -> int:
    """How far a box may reach beyond the region in it, in pixels; that of a slanting one is mostly air."""
    return max(2, round((0.2 + margin) * float(np.sqrt(plane.sum()))))
