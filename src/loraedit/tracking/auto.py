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
from itertools import pairwise
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from loraedit.errors import InputError
from loraedit.masks.shaping import box_regions
from loraedit.optical_flow.fields import Field, pixel_grid, sample_at
from loraedit.tracking.base import Hints, Planes, Tracker
from loraedit.tracking.changes import changed_region, name_of_frame
from loraedit.tracking.embedded import FlowTracker, track_small
from loraedit.tracking.motion import camera, fit_similarity, move
from loraedit.tracking.regions import closed, cut, filled, grown, opened, parts, shrunk, touching, without_islands
from loraedit.tracking.tools import hulls
from loraedit.tracking.view import View
from loraedit.types import Footage, Image, Mask, OnStep, Plane, no_step

__all__ = ["Loose", "loose_tube", "loosened", "mask_from_edit"]

_Matrix = NDArray[np.float64]

MOST_THINGS = 4
"""Parts of an edit that are followed each for itself."""
LOOK_AHEAD = 10
"""Frames over which a thing is seen to move."""
MOVING_PX = 1.2
"""Motion against the background, in pixels, from which on something moves."""


@dataclass(frozen=True)
class Loose:
    """How loose a mask is.

    Attributes:
        margin: added on each side, as a share of a region's width and height.
        shape: of each region: its ``box`` (as far as it lies near the region), its ``hull``, or its own ``outline``.
    """

    margin: float = 0.15
    shape: Literal["box", "hull", "outline"] = "box"


def mask_from_edit(
    source: Footage,
    edits: Mapping[int, Image],
    loose: Loose | None = None,
    tracker: Tracker | None = None,
    on_step: OnStep = no_step,
) -> Planes:
    """A loose mask for a clip, from its edited frames alone.

    Args:
        source: the clip; its frames are kept in memory at the size of tracking alone.
        edits: edited frames by frame index from 0, uint8 ``[H, W, 3]``; at least one.
        loose: how loose the mask is; None means ``Loose()``.
        tracker: follows the thing that is edited; the embedded one if None.
        on_step: told (frames done, frames in all).

    Returns:
        The mask of every frame, True = edit.

    Raises:
        InputError: an edited frame equals the source's, or differs nearly everywhere; or the mask would fill the clip.
    """
    view = View(source)
    regions = {
        index: changed_region(view.frame(index), edit, name_of_frame(index)) for index, edit in sorted(edits.items())
    }
    return loose_tube(view, regions, loose, tracker, on_step)


def loose_tube(
    view: View,
    regions: Mapping[int, Plane],
    loose: Loose | None = None,
    tracker: Tracker | None = None,
    on_step: OnStep = no_step,
) -> Planes:
    """Follow regions that are known in some frames through the clip, loosely.

    Args:
        view: the clip.
        regions: by frame index, bool ``[H, W]``, True = edit; at least one.
        loose: how loose the mask is; None means ``Loose()``.
        tracker: follows the thing; the embedded one if None.
        on_step: told (frames done, frames in all).

    Returns:
        The mask of every frame, True = edit, covering ``regions`` in theirs.

    Raises:
        InputError: the mask would fill the whole clip.
    """
    follow = _Follower(view, loose or Loose(), tracker or FlowTracker())
    return _at_clip_size(view, follow({k: view.scale.plane(v) for k, v in regions.items()}, on_step), regions)


def loosened(view: View, tight: Sequence[Plane], loose: Loose) -> Planes:
    """An object's tight mask made loose: with a margin, plainer, and steady over time.

    Raises:
        InputError: the mask would fill the whole clip.
    """
    small = np.stack([view.scale.plane(plane) for plane in tight])
    return _at_clip_size(view, _tube(small, loose), {})


def _at_clip_size(view: View, small: Mask, regions: Mapping[int, Plane]) -> Planes:
    """A mask ``[F, h, w]`` at the clip's own size, with the regions of some frames."""

    def plane(index: int) -> Plane:
        large = view.scale.back(small[index])
        return large | regions[index] if index in regions else large

    tube = Planes(len(small), plane)
    if small.all() and all(each.all() for each in tube):
        raise InputError("The mask made from the edit fills the whole clip. Say with --mask where to edit.")
    return tube


@dataclass(frozen=True)
class _Follower:
    """How to follow something through a clip; all masks are at the size of tracking.

    Attributes:
        view: the clip.
        loose: how loose the mask is; None means ``Loose()``.
        tracker: follows one thing.
    """

    view: View
    loose: Loose
    tracker: Tracker

    def __call__(self, regions: Mapping[int, Plane], on_step: OnStep) -> Mask:
        """The tube of all things edited, bool ``[F, H, W]``: each part that is for itself has a tube of its own."""
        things: list[tuple[dict[int, Plane], Mask]] = []
        todo = [(index, part) for index, region in sorted(regions.items()) for part in _apart(region)]
        for order, (index, part) in enumerate(todo):
            met = max(things, key=lambda thing: int((thing[1][index] & part).sum()), default=None)
            seeds = {index: part}
            if met is not None and _same(met[0], met[1][index], index, part):
                things = [thing for thing in things if thing is not met]
                seeds = {**met[0], index: met[0].get(index, part) | part}
            things.append((seeds, self._one(seeds, _shared(on_step, order, len(todo)))))
        return np.asarray(np.any([tube for _, tube in things], axis=0))

    def _one(self, seeds: Mapping[int, Plane], on_step: OnStep) -> Mask:
        """The tube of one thing."""
        tight = self._tight({index: _carrier(self.view, index, seed) for index, seed in seeds.items()}, on_step)
        region = tight.copy()
        for index, seed in seeds.items():
            region |= _taken_along(self.view, tight, index, seed, _span(index, sorted(seeds), len(tight)))
        return _tube(region, self.loose)

    def _tight(self, carriers: Mapping[int, Plane], on_step: OnStep) -> Mask:
        """What the tracker finds; the embedded one works at this size anyway."""
        scale = self.view.scale
        if isinstance(self.tracker, FlowTracker):
            return track_small(self.view, carriers, on_step)
        shown = {index: Hints(mask=scale.back(carrier)) for index, carrier in carriers.items()}
        return np.stack([scale.plane(plane) for plane in self.tracker.track(self.view, shown, on_step)])


def _apart(region: Plane) -> list[Plane]:
    """The parts of a region that lie well apart, the largest first; small ones beyond the first few go with it."""
    joined = closed(region, max(2, round(0.15 * float(np.sqrt(region.sum())))))
    found = parts(joined)
    first, rest = found[:MOST_THINGS], found[MOST_THINGS:]
    return [region & (np.any([part, *rest], axis=0) if not order else part) for order, part in enumerate(first)]


def _same(seeds: Mapping[int, Plane], tube: Plane, index: int, part: Plane) -> bool:
    """Whether a part belongs to a thing with these seeds: of another frame if they meet, else if it is mostly there."""
    held = (tube & part).sum()
    return bool(held > 0.5 * part.sum() if index in seeds else held > 0)


def _shared(on_step: OnStep, order: int, count: int) -> OnStep:
    """Progress of one task among several alike."""
    return lambda done, total: on_step(order * total + done, count * total)


def _carrier(view: View, index: int, region: Plane) -> Plane:
    """The thing that carries a region: the region itself, or what moves in it and next to it.

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
    found = cut(view.images[index], likely, shrunk(near, 5), ~grown(near, 3), rounds=2)
    return without_islands(found, 0.1) if found.sum() > 0.4 * near.sum() else near


def _moving(view: View, index: int, region: Plane, reach: int) -> Plane:
    """What moves against the background within the next frames, or the last ones at the end of the clip."""
    ahead = range(index, min(index + LOOK_AHEAD, len(view) - 1) + 1)
    behind = range(index, max(index - LOOK_AHEAD, 0) - 1, -1)
    steps = [view.step(one, other) for one, other in pairwise(ahead if len(ahead) >= len(behind) else behind)]
    still = ~grown(region, reach)
    away, way = np.zeros(region.shape, np.float32), np.zeros((*region.shape, 2), np.float32)
    alive = np.ones(region.shape, np.bool_)
    for step in steps:
        there = pixel_grid(way) + way
        alive &= sample_at(step.forward_agrees, there) > 0.5
        way = way + sample_at(step.forward, there)
        apart = np.linalg.norm(way - camera(way, still & alive), axis=-1)
        away = np.where(alive, np.maximum(away, apart), away)
    usual = float(np.quantile(away[grown(region, reach)], 0.9))
    return np.asarray(away > max(MOVING_PX, 0.35 * usual))


def _span(index: int, keys: Sequence[int], frames: int) -> range:
    """The frames up to the known ones before and after."""
    before = [key for key in keys if key < index]
    after = [key for key in keys if key > index]
    return range(before[-1] if before else 0, (after[0] if after else frames - 1) + 1)


def _taken_along(view: View, tight: Mask, key: int, region: Plane, span: range) -> Mask:
    """A region of one frame taken along by the plain motion of an object, bool ``[F, h, w]``; False outside ``span``.

    Args:
        view: the clip.
        tight: bool ``[F, h, w]``, the object.
        key: frame of the region.
        region: bool ``[h, w]``.
        span: the frames to take it to.
    """
    taken = np.zeros_like(tight)
    taken[key] = region
    for frames, way in ((range(key + 1, span.stop), 1), (range(key - 1, span.start - 1, -1), -1)):
        total, last = np.eye(3), np.eye(3)
        for index in frames:
            step = view.step(index - way, index)
            last = _step_of(step.forward, step.forward_agrees & shrunk(tight[index - way], 1), last)
            total = _centred(last @ total, tight[key], tight[index])
            taken[index] = move(region, np.asarray(total[:2], np.float32))
    return taken


def _step_of(flow: Field, where: Plane, last: _Matrix) -> _Matrix:
    """The plain motion ``[3, 3]`` of an object from one frame to the next; out of sight it drifts on as it did."""
    points = pixel_grid(flow)[where]
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


def _tube(tight: Mask, loose: Loose) -> Mask:
    """A region made loose: as it is now, a frame ago and a frame ahead, without gaps, with a margin, in plain shape."""
    wide = tight.copy()
    wide[1:] |= tight[:-1]
    wide[:-1] |= tight[1:]
    tidy = np.stack([_tidy(plane) for plane in wide])
    if loose.shape == "box":
        near = [grown(plane, max(2, _far(plane, 0.2 + loose.margin))) for plane in tidy]
        return box_regions(tidy, loose.margin) & np.stack(near)
    wider = [grown(plane, _far(plane, loose.margin)) for plane in tidy]
    return np.stack([hulls(plane) for plane in wider] if loose.shape == "hull" else wider)


def _tidy(plane: Plane) -> Plane:
    gap = max(2, round(0.12 * float(np.sqrt(plane.sum()))))
    return grown(filled(without_islands(closed(plane, gap), 0.04)), 1)


def _far(plane: Plane, share: float) -> int:
    """A share of a region's extent in pixels; a box may reach so far beyond it, for a slanting one's is mostly air."""
    return round(share * float(np.sqrt(plane.sum())))
