"""The embedded tracker: optical flow, colours and GrabCut. It needs no weights, and runs on any CPU.

From frame to frame a mask is carried by the flow where forward and backward flow agree; elsewhere (what comes to light,
what the flow cannot follow) the colours decide, and GrabCut draws the outline. Beside it, the seed itself is carried to
each frame in one leap, which undoes drift. An object that vanishes is looked for until it is seen again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from loraedit.optical_flow import Field, at, grid, misfit
from loraedit.tracking.base import Plane, Seeds
from loraedit.tracking.colours import Colours
from loraedit.tracking.motion import LIGHT, Matcher, Step, camera
from loraedit.tracking.regions import around, closed, cut, grown, shrunk, without_islands
from loraedit.tracking.scale import Scale
from loraedit.tracking.search import Portrait, find
from loraedit.types import Frames, Image, Mask, OnStep, Size, no_step

__all__ = ["FlowTracker"]

LOST = 0.12
"""Share of its usual area at which an object counts as out of sight."""
SURE = 0.6
"""Trust in the flow from which it alone decides away from the border."""
SLOW_PX = 0.7
"""An object that moves less than this against the background is not told from it by its motion."""
STRAY = 0.3
"""Doubt that falls in each frame on what moves like the background and has no colour of the object."""
LEARNED = 0.08
"""Share of new colours taken over in each frame."""


class FlowTracker:
    """The tracker that is always there; see :class:`~loraedit.tracking.base.Tracker`."""

    def track(self, source: Frames, seeds: Seeds, on_step: OnStep = no_step) -> Mask:
        """Find the object in every frame; see :meth:`loraedit.tracking.base.Tracker.track`."""
        assert seeds and all(0 <= index < len(source) for index in seeds)
        scale = Scale.of(source)
        images = [scale.image(frame) for frame in source]
        known = {index: scale.plane(seed) for index, seed in sorted(seeds.items())}
        belief = [np.zeros(images[0].shape[:2], np.float32) for _ in images]
        done = 0
        for way in _ways(sorted(known), len(source)):
            key = way.frames[0]
            belief[key] = known[key].astype(np.float32)
            for index, found in zip(way.frames[1:], _follow(images, known[key], way.frames), strict=True):
                belief[index] += np.float32(way.weight(index)) * found
                done += 1
                on_step(done, max(len(source) * (2 if len(known) > 1 else 1) - 1, 1))
        masks = np.stack([scale.back(each > 0.5) for each in belief])
        for index, seed in seeds.items():
            masks[index] = seed
        return masks


@dataclass(frozen=True)
class _Way:
    """A walk from one seed up to the next one, or to the end of the clip."""

    frames: Sequence[int]
    other_seed: int | None

    def weight(self, index: int) -> float:
        """How much this walk counts in a frame: all if it is the only one, else the more the nearer its seed."""
        if self.other_seed is None:
            return 1.0
        return abs(self.other_seed - index) / abs(self.other_seed - self.frames[0])


def _ways(keys: Sequence[int], frames: int) -> Iterator[_Way]:
    for order, key in enumerate(keys):
        before = keys[order - 1] if order else None
        after = keys[order + 1] if order + 1 < len(keys) else None
        yield _Way(range(key, frames if after is None else after), after)
        yield _Way(range(key, -1 if before is None else before, -1), before)


def _follow(images: Sequence[Image], seed: Plane, frames: Sequence[int]) -> Iterator[Field]:
    """The object in every frame of a walk but the first, ``[H, W]`` as 0 and 1."""
    walk, matcher = _Walk(images[frames[0]], seed), Matcher(Size(*seed.shape))
    steps = (matcher.step(images[one], images[other]) for one, other in pairwise(frames))
    step = next(steps, None)
    for index in frames[1:]:
        assert step is not None
        ahead = next(steps, None)
        yield walk.go(images[index], step, ahead).astype(np.float32)
        step = ahead


class _Walk:
    """Where the object was last, and what is known of it."""

    def __init__(self, image: Image, seed: Plane) -> None:
        self._matcher = Matcher(Size(*seed.shape))
        self._key, self._seed, self._leap = image, seed, np.zeros((*seed.shape, 2), np.float32)
        self._unbroken = np.ones(seed.shape, np.float32)
        self._last, self._mask, self._memory = image, seed, seed.astype(np.float32)
        self._reach = int(max(4, 0.12 * np.sqrt(seed.sum())))
        self._colours = self._first_colours = _colours(image, seed, self._reach)
        self._portrait = Portrait.of(image, seed)
        self._area = float(seed.sum())
        self._lost = not seed.any()

    def go(self, image: Image, step: Step, ahead: Step | None) -> Plane:
        """One frame on, by the match with the last frame; what comes to light now shows its motion in the next."""
        before = grid(step.back) + step.back
        self._leap = self._matcher.flow(image, self._key, step.back + at(self._leap, before))
        self._unbroken = at(self._unbroken, before) * (step.trust > 0.2)
        carried, trust = at(self._memory, before), step.trust
        if self._lost:
            guess = find(self._portrait, image, self._first_colours)
            carried = np.zeros_like(trust) if guess is None else guess.astype(np.float32)
            trust = np.full_like(trust, 0.3)
        mask, doubt = np.zeros_like(self._mask), np.zeros_like(trust)
        if carried.max() > 0.5:
            moves = self._moves(step, ahead, carried > 0.5)
            colours = self._colours.mixed(self._first_colours, 0.3).likelihood(image)
            mask = self._outline(image, self._belief(image, carried, trust, colours, moves), carried, trust)
            doubt = np.asarray(STRAY * (1 - 2 * moves).clip(0) * (colours < 0.65), np.float32)
        self._keep(image, mask)
        self._memory = np.asarray(self._mask * (1 - doubt), np.float32)
        return self._mask

    def _moves(self, step: Step, ahead: Step | None, object_: Plane) -> Field:
        """How likely a pixel does not move as the background does; a half if the object hardly moves."""
        still = ~grown(object_, 2 * self._reach)
        away = _speed(step.back, still)
        usual = float(np.quantile(away[object_], 0.8))
        if usual < SLOW_PX:
            return np.full_like(away, 0.5)
        if ahead is not None:
            away = np.minimum(away, np.where(ahead.forward_agrees, _speed(ahead.forward, still), np.inf))
        return np.asarray(1 - np.exp(-np.square(away / (0.5 * usual))), np.float32)

    def _belief(self, image: Image, carried: Field, trust: Field, colours: Field, moves: Field) -> Field:
        """How likely every pixel is the object's: by the last frame, the seed, its colours and its motion."""
        home = grid(self._leap) + self._leap
        fit = np.exp(-np.square(misfit(image, at(self._key, home)) / LIGHT))
        leap_trust = 0.6 * fit * (0.15 + 0.85 * self._unbroken)
        near = grown(carried > 0.5, 2 * self._reach)
        votes = trust * carried + leap_trust * at(self._seed, home) + near * (0.35 * colours + 0.5 * moves)
        return np.asarray(votes / (trust + leap_trust + 0.85), np.float32)

    def _outline(self, image: Image, belief: Field, carried: Field, trust: Field) -> Plane:
        """GrabCut decides in a band along the border, and where the flow cannot be trusted."""
        first = belief > 0.5
        band = max(2, self._reach // 4)
        sure = trust > SURE
        inside = shrunk(first, band) & ((belief > 0.8) | (sure & (carried > 0.9)))
        outside = ~grown(first | (carried > 0.5), self._reach) | (~grown(first, band) & sure & (carried < 0.1))
        mask = cut(image, belief, inside, outside)
        shared = (mask & first).sum() / max((mask | first).sum(), 1)
        return without_islands(closed(mask if shared > 0.6 else first, 1), 0.05)

    def _keep(self, image: Image, mask: Plane) -> None:
        area = float(mask.sum())
        self._last, self._lost = image, area < LOST * self._area
        self._mask = np.zeros_like(mask) if self._lost else mask
        if self._lost:
            return
        if area > 0.7 * self._area:
            self._colours = self._colours.mixed(_colours(image, mask, self._reach), LEARNED)
            self._portrait = Portrait.of(image, mask)
        self._area = 0.9 * self._area + 0.1 * area if area > 0.5 * self._area else self._area


def _speed(flow: Field, still: Plane) -> Field:
    """How fast every pixel moves against the background, in pixels a frame."""
    return np.asarray(np.linalg.norm(flow - camera(flow, still), axis=-1), np.float32)


def _colours(image: Image, mask: Plane, reach: int) -> Colours:
    return Colours.learn(image, mask, around(grown(mask, 1), 3 * reach))
