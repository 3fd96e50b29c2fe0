"""The embedded tracker: optical flow, colours and GrabCut. It needs no weights, and runs on any CPU.

From frame to frame a mask is carried by the flow where forward and backward flow agree; elsewhere (what comes to light,
what the flow cannot follow) the colours decide, and GrabCut draws the outline. Beside it, the seed itself is carried to
each frame in one leap, which undoes drift. An object that vanishes is looked for until it is seen again. The
margin and the shadow in a seed are followed apart from it (``surplus.py``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from loraedit.errors import InputError
from loraedit.optical_flow.fields import Field, photometric_error, pixel_grid, sample_at
from loraedit.tracking.base import Hints, Planes
from loraedit.tracking.colours import Colours
from loraedit.tracking.hints import corrected, seed_from_hints
from loraedit.tracking.motion import LIGHT, Matcher, Step, speed
from loraedit.tracking.regions import around, closed, cut, grown, shrunk, without_islands
from loraedit.tracking.search import Portrait, find
from loraedit.tracking.surplus import Shadow, Surplus
from loraedit.tracking.view import View
from loraedit.types import Image, Mask, OnStep, Plane, no_step

__all__ = ["FlowTracker", "track_small"]

LOST = 0.12
"""Share of its usual area at which an object counts as out of sight."""
SURE = 0.6
"""Trust in the flow from which it alone decides away from the border."""
SLOW_PX = 0.7
"""An object that moves less than this against the background is not told from it by its motion."""
STRAY = 0.3
"""Doubt that falls in each frame on what moves like the background and has no colour of the object."""
COLOURED = 0.65
"""Likelihood of a colour from which on it speaks for the object."""
LEARNED = 0.08
"""Share of new colours taken over in each frame."""


class FlowTracker:
    """The tracker that is always there; see :class:`~loraedit.tracking.base.Tracker`."""

    def track(self, view: View, shown: Mapping[int, Hints], on_step: OnStep = no_step) -> Planes:
        """Find the object in every frame; see :meth:`loraedit.tracking.base.Tracker.track`.

        Raises:
            InputError: nothing shows the object.
        """
        shown = dict(sorted(shown.items()))
        first = next((index for index, hints in shown.items() if hints.shows), None)
        if first is None:
            raise InputError(
                "There are points off the object, but none on the object. Add a --point on it, or a --box."
            )
        seeds = {
            index: seed_from_hints(view.frame(index), hints)
            for index, hints in shown.items()
            if hints.whole or index == first
        }
        wrong = [index for index in shown if index not in seeds]
        passes = 2 if wrong else 1
        small = track_small(view, _small(view, seeds), lambda done, total: on_step(done, passes * total))
        for index in wrong:
            seeds[index] = corrected(view.frame(index), view.scale.back(small[index]), shown[index])
        if wrong:
            small = track_small(view, _small(view, seeds), lambda done, total: on_step(total + done, passes * total))
        return Planes(len(view), lambda index: seeds[index] if index in seeds else view.scale.back(small[index]))


def _small(view: View, seeds: Mapping[int, Plane]) -> dict[int, Plane]:
    return {index: view.scale.plane(seed) for index, seed in seeds.items()}


def track_small(view: View, seeds: Mapping[int, Plane], on_step: OnStep = no_step) -> Mask:
    """The object in every frame, bool ``[F, h, w]``, from its masks in some; all at the size of tracking."""
    known = dict(sorted(seeds.items()))
    belief = np.zeros((len(view), *view.images[0].shape[:2]), np.float16)
    done = 0
    for way in _ways(list(known), len(view)):
        key = way.frames[0]
        belief[key] = known[key]
        for index, found in zip(way.frames[1:], _follow(view, known[key], way.frames), strict=True):
            belief[index] += np.float16(way.weight(index)) * found
            done += 1
            on_step(done, max(len(view) * (2 if len(known) > 1 else 1) - 1, 1))
    return belief > 0.5


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


def _follow(view: View, seed: Plane, frames: Sequence[int]) -> Iterator[Plane]:
    """The object in every frame of a walk but the first, bool ``[h, w]``."""
    images = view.images
    steps = (view.step(one, other) for one, other in pairwise(frames))
    step = next(steps, None)
    if step is None:
        return
    surplus = _surplus(images[frames[0]], seed, step)
    walk = _Walk(images[frames[0]], surplus.core, view.matcher)
    shadow = Shadow(images[frames[0]], surplus.shadow, surplus.core)
    for index in frames[1:]:
        assert step is not None
        ahead = next(steps, None)
        found = walk.go(images[index], step, ahead)
        yield grown(found, surplus.margin_px) | shadow.go(images[index], found)
        step = ahead


def _surplus(image: Image, seed: Plane, step: Step) -> Surplus:
    """What a seed holds beyond the object, by its colours and its motion into the next frame."""
    reach, slow, silent = _reach(seed), np.zeros_like(seed), np.zeros_like(seed)
    away = speed(step.forward, ~grown(seed, 2 * reach))
    usual = float(np.quantile(away[seed], 0.9)) if seed.any() else 0.0
    if usual > SLOW_PX:
        moving = _colours(image, seed & (away > 0.5 * usual), reach)
        slow = away < 0.4 * usual
        silent = (away < 0.2 * usual) & (moving.likelihood(image) < COLOURED)
    return Surplus.of(image, seed, slow, silent, reach)


class _Walk:
    """Where the object was last, and what is known of it."""

    def __init__(self, image: Image, seed: Plane, matcher: Matcher) -> None:
        self._matcher = matcher
        self._key, self._seed, self._leap = image, seed, np.zeros((*seed.shape, 2), np.float32)
        self._unbroken = np.ones(seed.shape, np.float32)
        self._last, self._mask, self._memory = image, seed, seed.astype(np.float32)
        self._reach = _reach(seed)
        self._colours = self._first_colours = _colours(image, seed, self._reach)
        self._portrait = Portrait.of(image, seed)
        self._area = float(seed.sum())
        self._lost = not seed.any()

    def go(self, image: Image, step: Step, ahead: Step | None) -> Plane:
        """One frame on, by the match with the last frame; what comes to light now shows its motion in the next."""
        before = pixel_grid(step.back) + step.back
        self._leap = self._matcher.flow(image, self._key, step.back + sample_at(self._leap, before))
        self._unbroken = sample_at(self._unbroken, before) * (step.trust > 0.2)
        carried, trust = sample_at(self._memory, before), step.trust
        if self._lost:
            guess = find(self._portrait, image, self._first_colours)
            carried = np.zeros_like(trust) if guess is None else guess.astype(np.float32)
            trust = np.full_like(trust, 0.3)
        mask, doubt = np.zeros_like(self._mask), np.zeros_like(trust)
        if carried.max() > 0.5:
            moves = self._moves(step, ahead, carried > 0.5)
            colours = self._colours.mixed(self._first_colours, 0.3).likelihood(image)
            mask = self._outline(image, self._belief(image, carried, trust, colours, moves), carried, trust)
            doubt = np.asarray(STRAY * (1 - 2 * moves).clip(0) * (colours < COLOURED), np.float32)
        self._keep(image, mask)
        self._memory = np.asarray(self._mask * (1 - doubt), np.float32)
        return self._mask

    def _moves(self, step: Step, ahead: Step | None, object_: Plane) -> Field:
        """How likely a pixel does not move as the background does; a half if the object hardly moves."""
        still = ~grown(object_, 2 * self._reach)
        away = speed(step.back, still)
        usual = float(np.quantile(away[object_], 0.8))
        if usual < SLOW_PX:
            return np.full_like(away, 0.5)
        if ahead is not None:
            away = np.minimum(away, np.where(ahead.forward_agrees, speed(ahead.forward, still), np.inf))
        return np.asarray(1 - np.exp(-np.square(away / (0.5 * usual))), np.float32)

    def _belief(self, image: Image, carried: Field, trust: Field, colours: Field, moves: Field) -> Field:
        """How likely every pixel is the object's: by the last frame, the seed, its colours and its motion."""
        home = pixel_grid(self._leap) + self._leap
        fit = np.exp(-np.square(photometric_error(image, sample_at(self._key, home)) / LIGHT))
        leap_trust = 0.6 * fit * (0.15 + 0.85 * self._unbroken)
        near = grown(carried > 0.5, 2 * self._reach)
        votes = trust * carried + leap_trust * sample_at(self._seed, home) + near * (0.35 * colours + 0.5 * moves)
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


def _reach(mask: Plane) -> int:
    """How far from an object its surroundings are looked at, in pixels."""
    return int(max(4, 0.12 * np.sqrt(mask.sum())))


def _colours(image: Image, mask: Plane, reach: int) -> Colours:
    return Colours.learn(image, mask, around(grown(mask, 1), 3 * reach))
