"""Carry edited frames through a clip by the source's own optical flow: the classical answer, and a hint for the model.

The flow is that of the source, which is known in every frame, so it can be judged: of several ways from a frame back to
an edited one, every pixel takes those that explain the source best, short ones sooner than long ones, and where none
does it is not trusted.

Where an edit changed little, the change is carried and not the picture: the source has the pixels themselves in every
frame, as sharp and as lit as they are there. So what lies around an edited thing inside a loose mask stays as it was.

What an edited frame adds beside a thing, over the background, has no motion of its own in the source: it is taken off
before the rest is carried, and laid over it where the thing has gone (:mod:`loraedit.tracking.added`).

A long clip is carried a stretch at a time. An edited frame outside of the stretch is a :class:`FarKey`: it enters with
the way that leads to it, which :func:`trace` finds by walking there once.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from loraedit.optical_flow import Field, FlowMeter, Grey, at, grid, misfit
from loraedit.tracking.added import Part, Things, ride
from loraedit.types import Frames, Image, Mask, OnStep, Pixels, Size, Weights, no_step

__all__ = ["Carried", "FarKey", "carry", "trace"]

SHORT_SIDE = 320
"""Frames smaller than this are enlarged before the flow is measured; DIS matches patches of 8 pixels."""

SMOOTHNESS = 5.0
"""Of the flow: things turn and bend, and enlarged frames have gentle slopes for it to be weighed against."""

SURROUNDINGS = 0.7
"""Radius (sigma) in pixels over which the source is compared: no more than takes the edge off noise."""

TAU = 8.0
"""Grey levels of difference in the source over which one way back loses to another of the same length."""

DOUBT = 60.0
"""Grey levels of difference in the source at which a pixel's trust has fallen to 1 / e."""

HANDICAP = 3 * TAU
"""Grey levels by which the way back to a frame that was made is held to be worse than it is: the user's frames win."""


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


@dataclass(frozen=True)
class FarKey:
    """A key frame before or after the frames that are carried to.

    Attributes:
        source: the source in that frame, uint8 ``[H, W, 3]``.
        way: from the pixels of the nearest of the frames carried to, to the key frame; ``[h, w, 2]`` x and y, in
            shares of the frame's width and height, at any size.
        part: what the edited frame adds beside a thing.
    """

    source: Image
    way: Field
    part: Part | None = None


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
    ways, things = _Ways(source, short_side, far or {}), None if mask is None else Things(source, mask)
    sums = {frozenset(look): _Sums(source.shape[:3]) for look in looks}
    known = {(key, id(image)): _Edited(key, image, ways, things) for look in looks for key, image in look.items()}
    sheets = [_Sheet(source.shape, [known[key, id(image)] for key, image in look.items()]) for look in looks]
    keys = sorted(set().union(*looks))
    begun, steps = 0, [len(source) - (0 <= key < len(source)) for key in keys]
    for key, count in zip(keys, steps, strict=True):
        edited = [each for each in known.values() if each.key == key]
        for done, (index, positions) in enumerate(ways.back_to(key)):
            error = misfit(source[index], at(ways.key_frame(key), positions), SURROUNDINGS)
            doubt, length = _made(index, key, keys, made) if key in made else (0.0, abs(index - key))
            weight = (np.exp(-(error + np.float32(doubt)) / TAU)[..., None] + np.float32(1e-6)) / length
            trust = np.exp(-np.square(error / DOUBT))
            for indices, each in sums.items():
                if key in indices:
                    each.total[index] += weight
                    each.trust[index] = np.maximum(each.trust[index], trust)
            for frame in edited:
                colour = weight * frame.carried(source[index], positions, trust)
                overall = float(np.exp(-doubt / TAU)) / length
                part = frame.ridden(index, positions) if done % 2 == 0 else None
                for sheet in (each for each in sheets if frame in each.edited):
                    sheet.colour[index] += colour
                    if done % 2 == 0:
                        sheet.lay(index, part, overall)
            on_step(begun + done // 2 + 1, sum(steps))
        begun += count
    return [_carried(sheet, sums[frozenset(look)]) for sheet, look in zip(sheets, looks, strict=True)]


def trace(
    frames: Iterable[Image], stops: Collection[int], on_step: OnStep = no_step, short_side: int = SHORT_SIDE
) -> dict[int, Field]:
    """The ways to a key frame from frames far away, found by walking there frame by frame.

    At every stop the way is refined where that explains the source better, so that small errors do not add up.

    Args:
        frames: uint8 ``[H, W, 3]``: the key frame, and then one frame after the other away from it.
        stops: how many frames away from the key frame the way is asked for, each at least 1.
        on_step: told (frames done, frames in all).
        short_side: frames with a shorter side are enlarged before the flow is measured.

    Returns:
        By stop, the way as a :class:`FarKey` takes it, its short side at most ``SHORT_SIDE``.
    """
    walk, ways, last = iter(frames), {}, max(stops, default=0)
    key = next(walk)
    meter = FlowMeter(Size(*key.shape[:2]), short_side, SMOOTHNESS)
    chain = _Chain(meter, meter.grey(key))
    for away in range(1, last + 1):
        frame = next(walk)
        chain.go(meter.grey(frame))
        if away in stops:
            chain.flow = _better(meter, frame, key, chain.flow, chain.refined())
            ways[away] = _small(chain.flow)
        on_step(away, last)
    return ways


def _made(index: int, key: int, keys: Sequence[int], made: Collection[int]) -> tuple[float, int]:
    """How much worse a way to a frame that was made is than it looks, and how long: that frame came from the user's."""
    users = [abs(index - other) for other in keys if other not in made]
    return HANDICAP, max(1, min(users, default=abs(index - key)))


class _Sums:
    """What is added up over all ways back that a look has."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.total = np.full((*shape, 1), 1e-9, np.float32)
        self.trust = np.zeros(shape, np.float32)


class _Edited:
    """A key frame of one look or more: the ground that the source's flow carries, and what it adds beside a thing."""

    def __init__(self, key: int, image: Image, ways: _Ways, things: Things | None) -> None:
        self.key, self.image, self._things = key, image, things
        self._unedited = np.array_equal(image, ways.key_frame(key))
        self.part = self._added(ways)
        source = ways.key_frame(key)
        self._ground = image if self.part is None else np.where(self.part.where[..., None], source, image)
        self._change: Pixels = self._ground.astype(np.float32) - source
        apart = cv2.GaussianBlur(np.abs(self._change).max(-1), (0, 0), 1.0)
        self._little = np.exp(-np.square(apart / LITTLE))

    def _added(self, ways: _Ways) -> Part | None:
        if self._unedited:
            return None
        if self.key in ways.far:
            return ways.far[self.key].part
        return self._things.part(self.key, self.image) if self._things is not None else None

    def carried(self, frame: Image, positions: Field, trust: Weights) -> Pixels:
        """Its ground at positions, float32 ``[H, W, 3]``; where the edit changed little, ``frame`` with the change.

        The source's own frame is carried as it is: a LoRA that learnt from the answer would learn nothing.
        """
        ground = at(self._ground, positions)
        if self._unedited:
            return ground
        share = (trust * at(self._little, positions))[..., None]
        return np.asarray(ground + share * (frame + at(self._change, positions) - ground))

    def ridden(self, index: int, positions: Field) -> tuple[Pixels, Weights] | None:
        """What it adds, where its thing has gone in a frame, as :func:`ride` gives it."""
        if self.part is None:
            return None
        return ride(self.part, self.image, None if self._things is None else self._things.at(index), positions)


class _Sheet:
    """A look on its way: the ground that the source's flow carries, and the parts that are laid over it."""

    def __init__(self, shape: tuple[int, ...], edited: Sequence[_Edited]) -> None:
        self.edited = edited
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


def _carried(sheet: _Sheet, sums: _Sums) -> Carried:
    clip, trust = np.empty(sheet.colour.shape, np.uint8), sums.trust.copy()
    for index, (summed, total) in enumerate(zip(sheet.colour, sums.total, strict=True)):
        clip[index] = np.rint(sheet.over(index, summed / total)).clip(0, 255)
    for each in sheet.edited:
        if 0 <= each.key < len(clip):
            clip[each.key], trust[each.key] = each.image, 1.0
    return Carried(clip, trust)


class _Chain:
    """The way from the frame reached so far back to a key frame: a flow that grows step by step."""

    def __init__(self, meter: FlowMeter, key: Grey) -> None:
        self._meter, self._key, self._last = meter, key, key
        self.flow: Field = np.zeros((*key.shape, 2), np.float32)

    def go(self, frame: Grey) -> None:
        """One frame on."""
        step = self._meter.between(frame, self._last)
        self.flow = step + at(self.flow, grid(step) + step)
        self._last = frame

    def enter(self, frame: Grey, way: Field) -> None:
        """Begin in a frame from which the way is known."""
        self.flow, self._last = _large(way, self.flow.shape), frame

    def refined(self) -> Field:
        """The way measured in one leap, the chained one being the first guess."""
        return self._meter.between(self._last, self._key, self.flow)


class _Ways:
    """The ways from every frame back to a key frame: step by step, and then refined."""

    def __init__(self, source: Frames, short_side: int, far: Mapping[int, FarKey]) -> None:
        self._source, self.far = source, far
        self._meter = FlowMeter(Size(*source.shape[1:3]), short_side, SMOOTHNESS)
        self._greys = [self._meter.grey(frame) for frame in source]

    def key_frame(self, key: int) -> Image:
        """The source in a key frame."""
        image: Image = self._source[key] if 0 <= key < len(self._source) else self.far[key].source
        return image

    def back_to(self, key: int) -> Iterator[tuple[int, Field]]:
        """For every frame but ``key``, where each of its pixels lies in frame ``key``.

        Yields:
            (frame index, positions ``[H, W, 2]`` x and y in pixels), twice for each frame.
        """
        last = len(self._greys)
        orders = [range(max(key + 1, 0), last)] if key < last else []
        orders += [range(min(key, last) - 1, -1, -1)] if key > 0 else []
        for order in orders:
            chain = _Chain(self._meter, self._meter.grey(self.key_frame(key)))
            for index in order:
                if key in self.far and index == order[0]:
                    chain.enter(self._greys[index], self.far[key].way)
                else:
                    chain.go(self._greys[index])
                for flow in (chain.flow, chain.refined()):
                    yield index, grid(self._source[index]) + self._meter.at_clip_size(flow)


def _better(meter: FlowMeter, frame: Image, key: Image, chained: Field, refined: Field) -> Field:
    """Of two ways from a frame to a key frame, the one that explains each pixel of the frame better."""
    here, errors = grid(frame), []
    for flow in (chained, refined):
        errors.append(misfit(frame, at(key, here + meter.at_clip_size(flow)), SURROUNDINGS))
    take = cv2.resize((errors[1] < errors[0]).astype(np.float32), chained.shape[1::-1]) > 0.5
    return np.asarray(np.where(take[..., None], refined, chained), np.float32)


def _small(flow: Field) -> Field:
    """A flow in pixels as shares of the frame, and no larger than it has to be kept."""
    height, width = flow.shape[:2]
    scale = min(1.0, SHORT_SIDE / min(height, width))
    size = max(round(width * scale), 1), max(round(height * scale), 1)
    shares = np.asarray(flow / np.array([width, height], np.float32), np.float32)
    return np.asarray(cv2.resize(shares, size, interpolation=cv2.INTER_AREA), np.float32)


def _large(way: Field, shape: tuple[int, ...]) -> Field:
    """The opposite of :func:`_small`."""
    height, width = shape[:2]
    return np.asarray(cv2.resize(way, (width, height)) * np.array([width, height], np.float32), np.float32)
