"""The ways from frames back to key frames, by the source's own optical flow.

Two ways lead from a frame to a key frame: step by step, and, with that for a first guess, in one leap. To a key frame
outside of the frames at hand, a :class:`FarKey`, a way is found by walking there once (:func:`trace`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

import cv2
import numpy as np

from loraedit.optical_flow.dis import Field, FlowMeter, Grey, at, grid, misfit
from loraedit.propagation.added_parts import Part
from loraedit.types import Frames, Image, OnStep, Size, no_step

__all__ = ["SHORT_SIDE", "SURROUNDINGS", "FarKey", "Ways", "trace"]

SHORT_SIDE = 320
"""Frames smaller than this are enlarged before the flow is measured; DIS matches patches of 8 pixels."""

SMOOTHNESS = 5.0
"""Of the flow: things turn and bend, and enlarged frames have gentle slopes for it to be weighed against."""

SURROUNDINGS = 0.7
"""Radius (sigma) in pixels over which the source is compared: no more than takes the edge off noise."""


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


class Ways:
    """The ways from every frame back to a key frame.

    Attributes:
        far: the key frames outside of the source.

    Args:
        source: uint8 ``[F, H, W, 3]``.
        short_side: frames with a shorter side are enlarged before the flow is measured.
    """

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
