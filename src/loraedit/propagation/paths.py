"""Flow paths: where the pixels of a frame lie in a keyframe, by the optical flow of the source.

Each frame has two paths to a keyframe. The chained path adds up the flow from frame to frame. The direct path is
measured between the two frames in one go, with the chained path as the first guess. A path to a keyframe far away from
the frames at hand is found by walking there once (:func:`trace_paths`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from loraedit.optical_flow.base import FlowEstimator, FlowOptions
from loraedit.optical_flow.estimators import open_estimator
from loraedit.optical_flow.fields import Field, photometric_error, pixel_grid, resize_flow, sample_at
from loraedit.propagation.keyframes import Keyframe
from loraedit.types import Frames, Image, OnStep, Size, no_step

__all__ = ["ERROR_SIGMA_PX", "PROPAGATION_FLOW", "FlowPath", "FlowPaths", "Walk", "find_paths", "trace_paths"]

PROPAGATION_FLOW = FlowOptions(min_side_px=320, smoothness=5.0)
"""Less smooth than usual: objects turn and bend, and the gradients of enlarged frames are gentle.

Large frames are not reduced. On nine cases of ``benchmarks/propagation`` at 1920x1080, flow that is measured at
1280x720 loses 0.56 dB in the mean (up to 1.9) and takes 23 % off the whole time; at 960x540 with DIS's finest scale it
loses 0.13 dB (up to 0.3) and saves nothing. A model of 832x480 sees the same losses.
"""

STORED_SIDE_PX = 320
"""The largest shorter side of a traced path."""

UNIT_PX = 1 / 32
"""The precision of a packed path: that in which OpenCV before 5 samples an image."""

ERROR_SIGMA_PX = 0.7
"""Standard deviation of the window in which the source is compared along a path: just enough to suppress noise."""


@dataclass(frozen=True)
class FlowPath:
    """Where the pixels of a frame lie in a keyframe. All paths of a segment are in memory at once, so they are packed.

    Attributes:
        frame: index of the frame.
        steps: int16 ``[h, w, 2]``, x and y offsets in units of ``unit_px`` pixels of that size.
        unit_px: ``UNIT_PX``, or more where the flow is too long for it.
        direct: whether the path was measured in one go; else it is chained.
    """

    frame: int
    steps: NDArray[np.int16]
    unit_px: float
    direct: bool

    @classmethod
    def packed(cls, frame: int, flow: Field, direct: bool) -> FlowPath:
        """Packs a flow ``[h, w, 2]``."""
        unit_px = max(UNIT_PX, float(np.abs(flow).max()) / np.iinfo(np.int16).max)
        return cls(frame, np.rint(flow / np.float32(unit_px)).astype(np.int16), unit_px, direct)

    @property
    def flow(self) -> Field:
        """The flow, float32 ``[h, w, 2]``, x and y offsets in pixels of that size."""
        return self.steps * np.float32(self.unit_px)

    def positions(self, size: Size) -> Field:
        """Returns the positions in a keyframe of a size, ``[H, W, 2]`` x and y in pixels."""
        flow = resize_flow(self.flow, size)
        return pixel_grid(flow) + flow


Walk = tuple[FlowPath, ...]
"""Paths from consecutive frames, away from a keyframe: two for each frame, the chained one first."""

FlowPaths = Mapping[int, tuple[Walk, ...]]
"""The walks away from each keyframe, by the keyframe's index: through the frames after it, and those before it."""


def find_paths(
    frames: Frames, keyframes: Iterable[Keyframe], flow: FlowOptions = PROPAGATION_FLOW, on_step: OnStep = no_step
) -> FlowPaths:
    """Finds the flow paths from all frames of a clip to its keyframes.

    They depend on the source alone, not on what a keyframe shows.

    Args:
        frames: the source, uint8 ``[F, H, W, 3]``.
        keyframes: those of one index have the same paths.
        flow: the options of the flow estimator.
        on_step: called with (frames done, frames in all).
    """
    first = {keyframe.index: keyframe for keyframe in keyframes}
    estimator = open_estimator(Size(*frames.shape[1:3]), flow)
    prepared = [estimator.prepare(frame) for frame in frames]
    total = sum(len(frames) - (0 <= index < len(frames)) for index in first)
    paths, done = {}, 0
    for index, keyframe in sorted(first.items()):
        walks = []
        for order in _orders(index, len(frames)):
            walk = []
            for path in _walk(estimator, prepared, keyframe, order):
                walk.append(path)
                done += path.direct
                on_step(done, total)
            walks.append(tuple(walk))
        paths[index] = tuple(walks)
    return paths


def _orders(index: int, count: int) -> list[range]:
    """Returns the frames of each walk away from a keyframe; no frame is skipped, because chained paths add up."""
    after = [range(max(index + 1, 0), count)] if index < count else []
    return after + ([range(min(index, count) - 1, -1, -1)] if index > 0 else [])


def _walk(
    estimator: FlowEstimator, prepared: Sequence[Any], keyframe: Keyframe, order: Iterable[int]
) -> Iterator[FlowPath]:
    size = Size(*keyframe.source.shape[:2])
    home = last = estimator.prepare(keyframe.source)
    chained, entry = _no_flow(estimator), keyframe.path
    for index in order:
        current = prepared[index]
        chained = _chain(estimator, current, last, chained) if entry is None else _unstored(entry, estimator)
        last, entry = current, None
        direct = estimator.flow(current, home, chained)
        for flow, is_direct in ((chained, False), (direct, True)):
            yield FlowPath.packed(index, _no_larger(flow, size), is_direct)


def _no_larger(flow: Field, size: Size) -> Field:
    """Resizes a flow that was measured on enlarged frames to the frames' own size."""
    return resize_flow(flow, size) if flow.shape[0] > size.height or flow.shape[1] > size.width else flow


def trace_paths(
    frames: Iterable[Image],
    stops: Collection[int],
    on_step: OnStep = no_step,
    flow: FlowOptions = PROPAGATION_FLOW,
) -> dict[int, Field]:
    """Finds the flow paths to a keyframe from frames far away, by walking there frame by frame.

    At every stop the direct path replaces the chained one where it explains the source better, so that small errors do
    not add up.

    Args:
        frames: uint8 ``[H, W, 3]``: the source in the keyframe, then one frame after the other away from it.
        stops: the distances from the keyframe, in frames, from which a path is wanted; each at least 1.
        on_step: called with (frames done, frames in all).
        flow: the options of the flow estimator.

    Returns:
        The path by stop, in the form of :attr:`Keyframe.path`, its shorter side at most ``STORED_SIDE_PX``.
    """
    walk, paths, last_stop = iter(frames), {}, max(stops, default=0)
    source = next(walk)
    estimator = open_estimator(Size(*source.shape[:2]), flow)
    home = last = estimator.prepare(source)
    chained = _no_flow(estimator)
    for distance in range(1, last_stop + 1):
        frame = next(walk)
        current = estimator.prepare(frame)
        chained, last = _chain(estimator, current, last, chained), current
        if distance in stops:
            chained = _better(frame, source, chained, estimator.flow(current, home, chained))
            paths[distance] = _stored(chained)
        on_step(distance, last_stop)
    return paths


def _no_flow(estimator: FlowEstimator) -> Field:
    size = estimator.measured_size
    return np.zeros((size.height, size.width, 2), np.float32)


def _chain(estimator: FlowEstimator, current: Any, last: Any, path: Field) -> Field:
    """Extends a path that leads on from the prepared frame ``last`` by the step from the next one to it."""
    step = estimator.flow(current, last)
    return step + sample_at(path, pixel_grid(step) + step)


def _better(frame: Image, source: Image, chained: Field, direct: Field) -> Field:
    """Combines two paths from a frame to a keyframe: each pixel takes the one that explains the frame better."""
    here, size = pixel_grid(frame), Size(*frame.shape[:2])
    errors = [
        photometric_error(frame, sample_at(source, here + resize_flow(path, size)), ERROR_SIGMA_PX)
        for path in (chained, direct)
    ]
    take = cv2.resize((errors[1] < errors[0]).astype(np.float32), chained.shape[1::-1]) > 0.5
    return np.asarray(np.where(take[..., None], direct, chained), np.float32)


def _stored(path: Field) -> Field:
    """Converts a path from pixels to shares of the frame, at a limited size."""
    height, width = path.shape[:2]
    scale = min(1.0, STORED_SIDE_PX / min(height, width))
    size = max(round(width * scale), 1), max(round(height * scale), 1)
    shares = np.asarray(path / np.array([width, height], np.float32), np.float32)
    return np.asarray(cv2.resize(shares, size, interpolation=cv2.INTER_AREA), np.float32)


def _unstored(path: Field, estimator: FlowEstimator) -> Field:
    """Converts a stored path back to pixels of the estimator's size."""
    size = estimator.measured_size
    scale = np.array([size.width, size.height], np.float32)
    return np.asarray(cv2.resize(path, (size.width, size.height)) * scale, np.float32)
