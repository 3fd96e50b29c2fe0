"""Carry edited frames through a clip by the source's own optical flow: the classical answer, and a hint for the model.

The flow is that of the source, which is known in every frame, so it can be judged: of several ways from a frame back to
an edited one, every pixel takes those that explain the source best, short ones sooner than long ones, and where none
does it is not trusted.

Where an edit changed little, the change is carried and not the picture: the source has the pixels themselves in every
frame, as sharp and as lit as they are there. So what lies around an edited thing inside a loose mask stays as it was.

What an edited frame adds beside a thing, over the background, has no motion of its own in the source: it is taken off
before the rest is carried, and laid over it where the thing has gone (:mod:`loraedit.propagation.added_parts`).

A long clip is carried a stretch at a time. An edited frame outside of the stretch, a
:class:`~loraedit.propagation.paths.FarKey`, enters with the way that leads to it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from loraedit.optical_flow.dis import Field, at, misfit
from loraedit.propagation.added_parts import Part, Things, ride
from loraedit.propagation.paths import SHORT_SIDE, SURROUNDINGS, FarKey, Ways
from loraedit.types import Frames, Image, Mask, OnStep, Pixels, Weights, no_step

__all__ = ["Carried", "carry"]

TAU = 8.0
"""Grey levels of difference in the source over which one way back loses to another of the same length."""

DOUBT = 60.0
"""Grey levels of difference in the source at which a pixel's trust has fallen to 1 / e."""

HANDICAP = 3 * TAU
"""Grey levels by which the way back to a frame that was made is held to be worse than it is: the user's frames win."""

RETURN = 0.1
"""How much more of a part is seen from frame to frame once its thing was lost: what fits by chance does not flash."""

LITTLE = 24.0
"""Grey levels of change at which the weight of the source's own pixel has fallen to 1 / e."""


@dataclass(frozen=True)
class Carried:
    """Edited frames carried to all times.

    Attributes:
        frames: uint8 ``[F, H, W, 3]``; the given frames themselves where there are any.
        trust: float32 ``[F, H, W]`` in [0, 1]: how well the same way back explains the source.
    """

    frames: Frames
    trust: Weights


def carry(
    source: Frames,
    looks: Sequence[Mapping[int, Image]],
    on_step: OnStep = no_step,
    short_side: int = SHORT_SIDE,
    far: Mapping[int, FarKey] | None = None,
    made: Collection[int] = (),
    mask: Mask | None = None,
) -> list[Carried]:
    """Carry edited frames along the motion of the source, several looks at once.

    Args:
        source: uint8 ``[F, H, W, 3]``.
        looks: for each look its edited frames, uint8 ``[H, W, 3]`` by frame index, at least one. An index below 0, or
            from F on, is a frame outside of the source, which ``far`` knows.
        on_step: told (steps done, steps in all).
        short_side: frames with a shorter side are enlarged before the flow is measured.
        far: the key frames outside of the source.
        made: the key frames that are not the user's, which count less.
        mask: bool ``[F, H, W]``, a loose mask of the edited thing; without it, nothing is held to be added beside it.

    Returns:
        One clip for each look. Trust is a matter of the source alone: looks with the same indices have the same.
    """
    assert all(looks)
    ways, things = Ways(source, short_side, far or {}), None if mask is None else Things(source, mask)
    counts = {frozenset(look): _Count(source.shape[:3], frozenset(look), made) for look in looks}
    known: dict[tuple[int, int, bool], _Edited] = {}
    sheets = [_Sheet(source.shape, _key_frames(look, ways, things, known), counts[frozenset(look)]) for look in looks]
    keys = sorted(set().union(*looks))
    total = sum(len(source) - (0 <= key < len(source)) for key in keys)
    for done, step in enumerate(_steps(source, ways, keys), 1):
        for indices, count in counts.items():
            if step.key in indices:
                count.add(step)
        for edited in known.values():
            if edited.key == step.key:
                edited.onto([sheet for sheet in sheets if edited in sheet.edited], source[step.index], step)
        on_step((done + 1) // 2, total)
    return [_carried(sheet) for sheet in sheets]


@dataclass(frozen=True)
class _Step:
    """One of the two ways from a frame back to a key frame.

    Attributes:
        positions: where each pixel of frame ``index`` lies in frame ``key``, ``[H, W, 2]``.
        error: what it leaves unexplained of the source, ``[H, W]`` in grey levels.
        trust: how well it explains the source, ``[H, W]`` in [0, 1].
        leap: whether it is the second of the two.
    """

    key: int
    index: int
    positions: Field
    error: Weights
    trust: Weights
    leap: bool


def _steps(source: Frames, ways: Ways, keys: Sequence[int]) -> Iterator[_Step]:
    """All ways from all frames to all key frames, two of each in turn."""
    for key in keys:
        for done, (index, positions) in enumerate(ways.back_to(key)):
            error = misfit(source[index], at(ways.key_frame(key), positions), SURROUNDINGS)
            yield _Step(key, index, positions, error, np.exp(-np.square(error / DOUBT)), done % 2 == 1)


class _Count:
    """How much each way back counts for looks that have the same key frames, and what that sums to.

    Args:
        keys: the key frames.
        made: those that are not the user's. A way to one of them is held to be worse than it looks, and as long as the
            shortest to one of the user's: it came from there.

    Attributes:
        weight: of the pixels on the way that was added last, ``[H, W, 1]``.
        share: how much its key frame counts for the frame as a whole; None with the second way, not to count twice.
        total: the sum of all weights, ``[F, H, W, 1]``.
        trust: the most on any way, ``[F, H, W]``.
    """

    def __init__(self, shape: tuple[int, ...], keys: Collection[int], made: Collection[int]) -> None:
        self._made, self._users = made, [key for key in keys if key not in made]
        self.weight: Weights = np.zeros((*shape[1:], 1), np.float32)
        self.share: float | None = None
        self.total = np.full((*shape, 1), 1e-9, np.float32)
        self.trust = np.zeros(shape, np.float32)

    def add(self, step: _Step) -> None:
        doubt, length = 0.0, abs(step.index - step.key)
        if step.key in self._made:
            doubt, length = HANDICAP, max(1, min((abs(step.index - key) for key in self._users), default=length))
        self.weight = (np.exp(-(step.error + np.float32(doubt)) / TAU)[..., None] + np.float32(1e-6)) / length
        self.share = None if step.leap else float(np.exp(-doubt / TAU)) / length
        self.total[step.index] += self.weight
        self.trust[step.index] = np.maximum(self.trust[step.index], step.trust)


class _Edited:
    """A key frame of one look or more: the ground that the source's flow carries, and what it adds beside a thing.

    Args:
        taught: the look is the source's own. It is carried as it is then: a LoRA that learnt from the answer would
            learn nothing.
    """

    def __init__(self, key: int, image: Image, taught: bool, ways: Ways, things: Things | None) -> None:
        self.key, self.image, self._taught, self._things = key, image, taught, things
        self.part = None if taught else self._added(ways)
        self._followed = {True: 1.0, False: 1.0}  # ahead of it, and before it
        source = ways.key_frame(key)
        self._ground = image if self.part is None else np.where(self.part.clear[..., None], source, image)
        self._change: Pixels = self._ground.astype(np.float32) - source
        apart = cv2.GaussianBlur(np.abs(self._change).max(-1), (0, 0), 1.0)
        self._little = np.exp(-np.square(apart / LITTLE))

    def _added(self, ways: Ways) -> Part | None:
        if self.key in ways.far:
            return ways.far[self.key].part
        return self._things.part(self.key, self.image) if self._things is not None else None

    def onto(self, sheets: Sequence[_Sheet], frame: Image, step: _Step) -> None:
        """Lay it on sheets, by one way from a frame of the source."""
        carried = self._carried(frame, step)
        laid = self._ridden(step) if self.part is not None and not step.leap else None
        for sheet in sheets:
            sheet.colour[step.index] += sheet.count.weight * carried
            if sheet.count.share is not None:
                sheet.lay(step.index, laid, sheet.count.share)

    def _carried(self, frame: Image, step: _Step) -> Pixels:
        """Its ground where the way leads, float32 ``[H, W, 3]``; where it changed little, ``frame`` with the change."""
        ground = at(self._ground, step.positions)
        if self._taught:
            return ground
        little = (step.trust * at(self._little, step.positions))[..., None]
        return np.asarray(ground + little * (frame + at(self._change, step.positions) - ground))

    def _ridden(self, step: _Step) -> tuple[Pixels, Weights] | None:
        """What it adds, where its thing has gone, as :func:`ride` gives it."""
        assert self.part is not None
        thing = None if self._things is None else self._things.at(step.index)
        ridden = ride(self.part, self.image, thing, step.positions)
        if ridden is None:
            return None
        colours, there, followed = ridden
        ahead = step.index > self.key
        self._followed[ahead] = min(followed, self._followed[ahead] + RETURN)
        return colours, there * np.float32(self._followed[ahead])


def _key_frames(
    look: Mapping[int, Image], ways: Ways, things: Things | None, known: dict[tuple[int, int, bool], _Edited]
) -> list[_Edited]:
    """The key frames of a look; those that looks have in common are known already."""
    taught = all(np.array_equal(image, ways.key_frame(key)) for key, image in look.items())
    for key, image in look.items():
        if (key, id(image), taught) not in known:
            known[key, id(image), taught] = _Edited(key, image, taught, ways, things)
    return [known[key, id(image), taught] for key, image in look.items()]


class _Sheet:
    """A look on its way: the ground that the source's flow carries, and the parts that are laid over it."""

    def __init__(self, shape: tuple[int, ...], edited: Sequence[_Edited], count: _Count) -> None:
        self.edited, self.count = edited, count
        self.colour = np.zeros(shape, np.float32)
        self._over = np.zeros((*shape[:3], 4), np.float32) if any(each.part for each in edited) else None
        self._total = np.full(shape[0], 1e-9, np.float32)

    def lay(self, index: int, part: tuple[Pixels, Weights] | None, weight: float) -> None:
        """Lay what a key frame adds over a frame; None where it adds nothing."""
        self._total[index] += weight
        if self._over is not None and part is not None:
            colours, there = part
            self._over[index] += (
                weight * there[..., None] * np.concatenate([colours, np.ones_like(colours[..., :1])], -1)
            )

    def over(self, index: int, ground: Pixels) -> Pixels:
        """A carried frame with the parts laid over it, float32 ``[H, W, 3]``."""
        if self._over is None:
            return ground
        colours, there = np.split(self._over[index] / self._total[index], [3], -1)
        return np.asarray(ground * (1 - there) + colours)


def _carried(sheet: _Sheet) -> Carried:
    clip, trust = np.empty(sheet.colour.shape, np.uint8), sheet.count.trust.copy()
    for index, (summed, total) in enumerate(zip(sheet.colour, sheet.count.total, strict=True)):
        clip[index] = np.rint(sheet.over(index, summed / total)).clip(0, 255)
    for each in sheet.edited:
        if 0 <= each.key < len(clip):
            clip[each.key], trust[each.key] = each.image, 1.0
    return Carried(clip, trust)
