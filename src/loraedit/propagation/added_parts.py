"""Parts that an edit adds beside a thing: a hat, wings, a sail.

At their place the source shows what lies behind, so the source's flow would leave them behind. They ride with the thing
they are added to instead: by the one turn, scale and shift that takes most of the thing near them where it went.

What belongs to the thing is what moves unlike the background, and what covers places that show something else at other
times. What changed elsewhere was added.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray

from loraedit.optical_flow.dis import Field, FlowMeter, at, grid
from loraedit.tracking.motion import camera_motion, moved, speed
from loraedit.tracking.regions import grown, opened, shrunk
from loraedit.tracking.scale import Scale
from loraedit.types import Frames, Image, Mask, Pixels, Plane, Size, Weights

__all__ = ["Part", "Things", "ride"]

FLOW_SIDE_PX = 224
"""Frames whose shorter side is less are enlarged before flow is measured."""
MOVED = 1.5 / 128
"""Share of the shorter side by which a thing must move against the background to be told from it."""
RIM = 4 / 128
"""Share of the shorter side by which the thing is taken to be smaller than it looks: flow is smooth across outlines."""
LEAST = 0.01
"""Share of a thing's area from which on something beside it is a part that was added."""
CHANGED = 12.0
"""Grey levels from which on an edited frame differs from the source's."""
SAME = 16.0
"""Grey levels up to which a place shows the same at another time."""
OFTEN, NEARLY_ALWAYS = 0.3, 0.8
"""Shares of the other frames: a place that shows the same in fewer than the one is a thing's, in more than the other
the background's, even close to a thing that moves."""
CLEAR = 10
"""How much more a frame counts for this in which the place lies outside of the mask, where there can be no thing."""
ON_THE_MEAN = 0.65
"""What lies below a part shows the same in this share of the other frames; what is left over of a thing does not."""
OFFSETS = (1, 2, 3, 4, 6, 8, 12)
"""Frames away in which a thing's motion is looked for, nearest first."""
POINTS = 4000
"""Points of a thing that its motion is fitted to, at most."""
FOLLOWED = 0.02
"""Share of the shorter side up to which a point of a thing is taken to go with the rest."""
TRUSTED = (0.3, 0.5)
"""Shares of a thing's points near a part that go with the rest: up to the one the part is not seen, from the other on
it is seen as it was."""
ROUNDS = 15
"""Times that the fit is repeated with less weight on what it does not explain."""


@dataclass(frozen=True)
class Part:
    """What an edited frame adds beside a thing.

    Attributes:
        where: bool ``[H, W]``, the part in the edited frame.
        clear: bool ``[H, W]``, what of it lies over the background, and not over the thing.
        thing: bool ``[H, W]``, the thing that it rides with, in the same frame.
    """

    where: Plane
    clear: Plane
    thing: Plane

    @cached_property
    def away(self) -> Field:
        """How far every pixel is from the part, ``[H, W]`` in pixels."""
        outside = (~self.where).astype(np.uint8)
        return np.asarray(cv2.distanceTransform(outside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE), np.float32)

    @cached_property
    def soft(self) -> Field:
        """The part with a soft outline, ``[H, W]`` in [0, 1]."""
        return np.asarray(cv2.GaussianBlur(self.where.astype(np.float32), (0, 0), 0.5), np.float32)


class Things:
    """Tells the thing inside a mask from the background, frame by frame.

    Args:
        source: uint8 ``[F, H, W, 3]``.
        mask: bool ``[F, H, W]``, a loose mask of the thing.
    """

    def __init__(self, source: Frames, mask: Mask) -> None:
        self._scale = Scale.of(Size(*source.shape[1:3]))
        self._source = np.stack([self._scale.image(frame) for frame in source])
        self._mask = np.stack([self._scale.plane(plane) for plane in mask])
        self._meter = FlowMeter(Size(*self._source.shape[1:3]), FLOW_SIDE_PX)
        self._side = min(self._scale.small)
        self._known: dict[int, Plane | None] = {}
        self._sames: dict[int, Field] = {}

    def part(self, index: int, look: Image) -> Part | None:
        """What an edited frame adds beside the thing.

        Args:
            index: of the frame.
            look: the edited frame, uint8 ``[H, W, 3]``.
        """
        edited, source = self._scale.image(look), self._source[index]
        changed = (_difference(edited, source, 0.7) > CHANGED) & self._mask[index]
        if not changed.any() or (thing := self._small(index)) is None:
            return None
        rim = self._px(RIM)
        beside = opened(changed & ~thing, 1)
        if beside.sum() < max(1.0, LEAST * thing.sum()) or self._same(index)[beside].mean() < ON_THE_MEAN:
            return None
        where = changed & ~shrunk(thing, rim) & grown(beside, 2 * rim)
        clear = where & (self._same(index) >= OFTEN)
        return Part(*(self._scale.back(each) for each in (where, clear, thing)))

    def at(self, index: int) -> Plane | None:
        """The thing in a frame, bool ``[H, W]``; None if it cannot be told from the background."""
        thing = self._small(index)
        return None if thing is None else self._scale.back(thing)

    def _small(self, index: int) -> Plane | None:
        if index not in self._known:
            moving = self._moving(index)
            self._known[index] = None if moving is None else self._whole(index, moving)
        return self._known[index]

    def _whole(self, index: int, moving: Plane) -> Plane:
        """The thing, of which flow shows what moves: with what stands still for now, without what moves close by."""
        same = self._same(index)
        certain = shrunk(moving, self._px(RIM)) | (self._mask[index] & (same < OFTEN))
        return np.asarray(certain | (moving & (same < NEARLY_ALWAYS)))

    def _moving(self, index: int) -> Plane | None:
        """What moves unlike the background, by the nearest frame that shows it."""
        mask = self._mask[index]
        for other in (index + sign * offset for offset in OFFSETS for sign in (1, -1)):
            if not 0 <= other < len(self._source) or not mask.any():
                continue
            fast = cv2.GaussianBlur(speed(self._flow(index, other), self._still(index)), (0, 0), 0.7)
            usual = np.quantile(fast[mask], 0.9)
            if usual > MOVED * self._side:
                return np.asarray((fast > 0.5 * usual) & mask)
        return None

    def _same(self, index: int) -> Field:
        """In what share of the other frames that show the background's place it shows the same, ``[H, W]``."""
        if index in self._sames:
            return self._sames[index]
        (same, seen), here = np.zeros((2, *self._source.shape[1:3]), np.float32), grid(self._source[index])
        for other in range(len(self._source)):
            if other != index:
                motion = self._cameras[other] @ np.linalg.inv(self._cameras[index])
                places = np.asarray(moved(here, motion[:2]), np.float32)
                covered = at(self._mask[other].astype(np.float32), places) > 0.01
                counts = _inside(places) * np.where(covered, 1, CLEAR).astype(np.float32)
                same += counts * (_difference(at(self._source[other], places), self._source[index], 1.0) < SAME)
                seen += counts
        self._sames[index] = same / np.maximum(seen, np.float32(1))
        return self._sames[index]

    @cached_property
    def _cameras(self) -> list[NDArray[np.float64]]:
        """The background's motion from the first frame to every other, ``[3, 3]``."""
        cameras = [np.eye(3)]
        for index in range(len(self._source) - 1):
            step = camera_motion(self._flow(index, index + 1), self._still(index))
            cameras.append(np.vstack([step, (0, 0, 1)]) @ cameras[-1])
        return cameras

    def _flow(self, index: int, other: int) -> Field:
        one, two = (self._meter.grey(self._source[each]) for each in (index, other))
        return self._meter.at_clip_size(self._meter.between(one, two))

    def _still(self, index: int) -> Plane:
        return ~grown(self._mask[index], 2)

    def _px(self, share: float) -> int:
        return max(1, round(share * self._side))


def ride(part: Part, look: Image, thing: Plane | None, positions: Field) -> tuple[Pixels, Weights, float] | None:
    """A part in another frame.

    Args:
        part: what ``look`` adds.
        look: the edited frame, uint8 ``[H, W, 3]``.
        thing: bool ``[H, W]``, the thing in the other frame; None if it is not known.
        positions: where each pixel of the other frame lies in the edited one, ``[H, W, 2]``, by the source's flow.

    Returns:
        Colours float32 ``[H, W, 3]``, how much of the part is there, ``[H, W]`` in [0, 1], and how far its thing can be
        followed, 0 to 1; None where there is no thing to follow.
    """
    here = grid(part.where)
    on = at(part.thing, positions) > 0.5
    points = np.flatnonzero(on if thing is None else on & thing)
    if len(points) < 30:
        return None
    points = points[:: -(-len(points) // POINTS)]
    found, sources = positions.reshape(-1, 2)[points], here.reshape(-1, 2)[points]
    near = np.exp(-at(part.away, found[None])[0] / (np.sqrt(part.where.sum()) + 3))
    motion = _similarity(sources, found, near)
    miss = np.linalg.norm(moved(sources, motion) - found, axis=-1)
    followed = float(near[miss < FOLLOWED * min(part.where.shape)].sum() / near.sum())
    back = np.asarray(moved(here, motion), np.float32)
    return at(look, back), at(part.soft, back) * _inside(back), float(np.interp(followed, TRUSTED, (0, 1)))


def _inside(positions: Field) -> Plane:
    """Where positions lie in the frame: beyond its edge there is nothing to see."""
    height, width = positions.shape[:2]
    x, y = positions[..., 0], positions[..., 1]
    return np.asarray((x >= 0) & (y >= 0) & (x <= width - 1) & (y <= height - 1))


def _similarity(points: Field, found: Field, weights: Field) -> Field:
    """The turn, scale and shift that takes most of the weight where it went, ``[2, 3]``: reweighted least squares."""
    fitted, trusted = _fit(points, found, weights), weights
    for _ in range(ROUNDS):
        miss = np.linalg.norm(moved(points, fitted) - found, axis=-1)
        trusted = weights / (1 + np.square(miss / max(float(np.median(miss)), 0.3)))
        fitted = _fit(points, found, trusted)
    return fitted


def _fit(points: Field, found: Field, weights: Field) -> Field:
    share = (weights / weights.sum())[:, None]
    centre, target = (share * points).sum(0), (share * found).sum(0)
    (x, y), (u, v) = (points - centre).T, (found - target).T
    along, across = (share[:, 0] * (x * u + y * v)).sum(), (share[:, 0] * (x * v - y * u)).sum()
    turn = np.array([[along, -across], [across, along]]) / ((share[:, 0] * (x * x + y * y)).sum() + 1e-6)
    return np.asarray(np.column_stack([turn, target - turn @ centre]), np.float32)


def _difference(one: NDArray[np.generic], other: Image, sigma: float) -> Field:
    """The largest difference of a channel, over the surroundings of every pixel."""
    apart = np.abs(one.astype(np.float32) - other).max(-1)
    return np.asarray(cv2.GaussianBlur(apart, (0, 0), sigma), np.float32)
