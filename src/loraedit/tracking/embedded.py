"""The embedded tracker: optical flow, colours and GrabCut. It needs no weights, and runs on any CPU.

From frame to frame, a mask is warped by the flow where forward and backward flow agree. Elsewhere, in newly visible
areas and where the flow fails, the colours decide, and GrabCut draws the outline. The seed is also warped directly to
each frame, which removes drift. A lost object is searched for until it is visible again. The margin and the shadow of a
seed are tracked separately (``surplus.py``).
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
from loraedit.tracking.motion import TRUST_LEVELS, Match, Matcher, relative_speed
from loraedit.tracking.regions import closed, grabcut, grown, ring, shrunk, without_small_parts
from loraedit.tracking.search import Template, find_template
from loraedit.tracking.surplus import Shadow, Surplus
from loraedit.tracking.view import View
from loraedit.types import Image, Mask, OnStep, Plane, no_step

__all__ = ["FlowTracker", "track_small"]

LOST_SHARE = 0.12
"""Share of its usual area at which an object counts as out of sight."""
TRUSTED = 0.6
"""Trust in the flow from which on the flow alone decides away from the outline."""
MIN_MOTION_PX = 0.7
"""An object that moves less than this relative to the background is not separated from it by its motion."""
STRAY_DOUBT = 0.3
"""Doubt that is added in each frame where a pixel moves like the background and lacks the object's colours."""
OBJECT_COLOUR = 0.65
"""Likelihood from which on a colour counts as the object's."""
COLOUR_UPDATE = 0.08
"""Share of new colours that is learned in each frame."""


class FlowTracker:
    """The tracker that needs no download; see :class:`~loraedit.tracking.base.Tracker`."""

    def track(self, view: View, shown: Mapping[int, Hints], on_step: OnStep = no_step) -> Planes:
        """Finds the object in every frame; see :meth:`loraedit.tracking.base.Tracker.track`.

        Raises:
            InputError: no hint lies on the object.
        """
        shown = dict(sorted(shown.items()))
        first = next((index for index, hints in shown.items() if hints.shows), None)
        if first is None:
            raise InputError("All hints are off the object. Add a --point on it, or a --box.")
        seeds = {
            index: seed_from_hints(view.frame(index), hints)
            for index, hints in shown.items()
            if hints.whole or index == first
        }
        corrections = [index for index in shown if index not in seeds]
        passes = 2 if corrections else 1
        small = track_small(view, _small(view, seeds), lambda done, total: on_step(done, passes * total))
        for index in corrections:
            seeds[index] = corrected(view.frame(index), view.scale.back(small[index]), shown[index])
        if corrections:
            small = track_small(view, _small(view, seeds), lambda done, total: on_step(total + done, passes * total))
        return Planes(len(view), lambda index: seeds[index] if index in seeds else view.scale.back(small[index]))


def _small(view: View, seeds: Mapping[int, Plane]) -> dict[int, Plane]:
    """Resizes the seeds to the tracking size."""
    return {index: view.scale.plane(seed) for index, seed in seeds.items()}


def track_small(view: View, seeds: Mapping[int, Plane], on_step: OnStep = no_step) -> Mask:
    """Tracks an object from its masks in some frames, all at the tracking size.

    Args:
        view: the clip.
        seeds: masks of the object, bool ``[h, w]`` by frame index.
        on_step: called with (frames done, frames in all).

    Returns:
        The object in every frame, bool ``[F, h, w]``.
    """
    known = dict(sorted(seeds.items()))
    likelihood = np.zeros((len(view), *view.images[0].shape[:2]), np.float16)
    done = 0
    for one_pass in _passes(list(known), len(view)):
        key = one_pass.frames[0]
        likelihood[key] = known[key]
        for index, found in zip(one_pass.frames[1:], _track_pass(view, known[key], one_pass.frames), strict=True):
            likelihood[index] += np.float16(one_pass.weight(index)) * found
            done += 1
            on_step(done, max(len(view) * (2 if len(known) > 1 else 1) - 1, 1))
    return likelihood > 0.5


@dataclass(frozen=True)
class _Pass:
    """A pass from one seed up to the next one, or to the end of the clip."""

    frames: Sequence[int]
    other_seed: int | None

    def weight(self, index: int) -> float:
        """Returns the weight of the pass in a frame: 1 for the only pass, else more the nearer its seed is."""
        if self.other_seed is None:
            return 1.0
        return abs(self.other_seed - index) / abs(self.other_seed - self.frames[0])


def _passes(keys: Sequence[int], frames: int) -> Iterator[_Pass]:
    """Yields the passes forwards and backwards from every seed."""
    for order, key in enumerate(keys):
        before = keys[order - 1] if order else None
        after = keys[order + 1] if order + 1 < len(keys) else None
        yield _Pass(range(key, frames if after is None else after), after)
        yield _Pass(range(key, -1 if before is None else before, -1), before)


def _track_pass(view: View, seed: Plane, frames: Sequence[int]) -> Iterator[Plane]:
    """Yields the object in every frame of a pass but the first, bool ``[h, w]``."""
    images = view.images
    matches = (view.match(one, other) for one, other in pairwise(frames))
    match = next(matches, None)
    if match is None:
        return
    surplus = _surplus(images[frames[0]], seed, match)
    state = _ObjectState(images[frames[0]], surplus.core, view.matcher)
    shadow = Shadow(images[frames[0]], surplus.shadow, surplus.core)
    for index in frames[1:]:
        assert match is not None
        ahead = next(matches, None)
        found = state.advance(images[index], match, ahead)
        yield grown(found, surplus.margin_px) | shadow.next(images[index], found)
        match = ahead


def _surplus(image: Image, seed: Plane, match: Match) -> Surplus:
    """Finds what a seed contains beyond the object, by its colours and its motion into the next frame."""
    reach, slow, background_like = _reach_px(seed), np.zeros_like(seed), np.zeros_like(seed)
    speeds = relative_speed(match.forward, ~grown(seed, 2 * reach))
    usual = float(np.quantile(speeds[seed], 0.9)) if seed.any() else 0.0
    if usual > MIN_MOTION_PX:
        moving = _colours(image, seed & (speeds > 0.5 * usual), reach)
        slow = speeds < 0.4 * usual
        background_like = (speeds < 0.2 * usual) & (moving.likelihood(image) < OBJECT_COLOUR)
    return Surplus.of(image, seed, slow, background_like, reach)


class _ObjectState:
    """Where the object was last, and what is known about it."""

    def __init__(self, image: Image, seed: Plane, matcher: Matcher) -> None:
        self._matcher = matcher
        self._seed_image, self._seed, self._to_seed = image, seed, np.zeros((*seed.shape, 2), np.float32)
        self._continuity = np.ones(seed.shape, np.float32)
        self._mask, self._memory = seed, seed.astype(np.float32)
        self._reach_px = _reach_px(seed)
        self._colours = self._first_colours = _colours(image, seed, self._reach_px)
        self._template = Template.of(image, seed)
        self._area = float(seed.sum())
        self._lost = not seed.any()

    def advance(self, image: Image, match: Match, ahead: Match | None) -> Plane:
        """Advances by one frame, and returns the object there, bool ``[h, w]``.

        Args:
            image: the frame.
            match: of the last frame and this one.
            ahead: the match of this frame and the next; it shows how newly visible areas move.
        """
        before = pixel_grid(match.back) + match.back
        self._to_seed = self._matcher.flow(image, self._seed_image, match.back + sample_at(self._to_seed, before))
        self._continuity = sample_at(self._continuity, before) * (match.trust > 0.2)
        carried, trust = sample_at(self._memory, before), match.trust
        if self._lost:
            guess = find_template(self._template, image, self._first_colours)
            carried = np.zeros_like(trust) if guess is None else guess.astype(np.float32)
            trust = np.full_like(trust, 0.3)
        mask, doubt = np.zeros_like(self._mask), np.zeros_like(trust)
        if carried.max() > 0.5:
            motion_vote = self._motion_vote(match, ahead, carried > 0.5)
            colours = self._colours.mixed(self._first_colours, 0.3).likelihood(image)
            mask = self._outline(image, self._likelihood(image, carried, trust, colours, motion_vote), carried, trust)
            doubt = np.asarray(STRAY_DOUBT * (1 - 2 * motion_vote).clip(0) * (colours < OBJECT_COLOUR), np.float32)
        self._update(image, mask)
        self._memory = np.asarray(self._mask * (1 - doubt), np.float32)
        return self._mask

    def _motion_vote(self, match: Match, ahead: Match | None, mask: Plane) -> Field:
        """Returns how likely a pixel moves unlike the background; 0.5 everywhere if the object hardly moves."""
        still = ~grown(mask, 2 * self._reach_px)
        speeds = relative_speed(match.back, still)
        usual = float(np.quantile(speeds[mask], 0.8))
        if usual < MIN_MOTION_PX:
            return np.full_like(speeds, 0.5)
        if ahead is not None:
            speeds = np.minimum(speeds, np.where(ahead.forward_agrees, relative_speed(ahead.forward, still), np.inf))
        return np.asarray(1 - np.exp(-np.square(speeds / (0.5 * usual))), np.float32)

    def _likelihood(self, image: Image, carried: Field, trust: Field, colours: Field, motion_vote: Field) -> Field:
        """Combines the last frame, the seed, colours and motion: how likely a pixel belongs to the object."""
        at_seed = pixel_grid(self._to_seed) + self._to_seed
        seed_fit = np.exp(-np.square(photometric_error(image, sample_at(self._seed_image, at_seed)) / TRUST_LEVELS))
        seed_trust = 0.6 * seed_fit * (0.15 + 0.85 * self._continuity)
        near = grown(carried > 0.5, 2 * self._reach_px)
        from_seed = sample_at(self._seed, at_seed)
        votes = trust * carried + seed_trust * from_seed + near * (0.35 * colours + 0.5 * motion_vote)
        return np.asarray(votes / (trust + seed_trust + 0.85), np.float32)

    def _outline(self, image: Image, likelihood: Field, carried: Field, trust: Field) -> Plane:
        """Draws the outline by GrabCut, in a band along the border and where the flow is not trusted."""
        likely = likelihood > 0.5
        band = max(2, self._reach_px // 4)
        trusted = trust > TRUSTED
        inside = shrunk(likely, band) & ((likelihood > 0.8) | (trusted & (carried > 0.9)))
        outside = ~grown(likely | (carried > 0.5), self._reach_px) | (~grown(likely, band) & trusted & (carried < 0.1))
        mask = grabcut(image, likelihood, inside, outside)
        overlap = (mask & likely).sum() / max((mask | likely).sum(), 1)
        return without_small_parts(closed(mask if overlap > 0.6 else likely, 1), 0.05)

    def _update(self, image: Image, mask: Plane) -> None:
        """Updates the mask, the colours, the template and the usual area."""
        area = float(mask.sum())
        self._lost = area < LOST_SHARE * self._area
        self._mask = np.zeros_like(mask) if self._lost else mask
        if self._lost:
            return
        if area > 0.7 * self._area:
            self._colours = self._colours.mixed(_colours(image, mask, self._reach_px), COLOUR_UPDATE)
            self._template = Template.of(image, mask)
        self._area = 0.9 * self._area + 0.1 * area if area > 0.5 * self._area else self._area


def _reach_px(mask: Plane) -> int:
    """Returns how far around an object its surroundings are considered, in pixels."""
    return int(max(4, 0.12 * np.sqrt(mask.sum())))


def _colours(image: Image, mask: Plane, reach: int) -> Colours:
    """Learns the colours of an object and of a ring around it."""
    return Colours.learn(image, mask, ring(grown(mask, 1), 3 * reach))
