"""Carry edited frames through a clip by the source's own optical flow: the classical answer, and a hint for the model.

The flow is that of the source, which is known in every frame, so it can be judged: of several ways from a frame back to
an edited one, every pixel takes those that explain the source best, and where none does it is not trusted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from loraedit.types import Frames, Image, Weights

__all__ = ["Carried", "carry"]

OnStep = Callable[[int, int], None]

_Field = NDArray[np.float32]

SHORT_SIDE = 224
"""Frames smaller than this are enlarged before the flow is measured; DIS matches patches of 8 pixels."""

TAU = 4.0
"""Grey levels of difference in the source over which one way back loses to another."""

DOUBT = 60.0
"""Grey levels of difference in the source at which a pixel's trust has fallen to 1 / e."""


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
    on_step: OnStep = lambda *_: None,
    short_side: int = SHORT_SIDE,
) -> list[Carried]:
    """Carry edited frames along the motion of the source, several looks at once.

    Args:
        source: uint8 ``[F, H, W, 3]``.
        looks: for each look the edited frames, uint8 ``[H, W, 3]`` by frame index; all looks have the same indices,
            and at least one.
        on_step: told (frames done, frames in all).
        short_side: frames with a shorter side are enlarged before the flow is measured.

    Returns:
        One clip for each look; their trust is the same, since it is a matter of the source alone.
    """
    keys = sorted(looks[0])
    assert keys and all(sorted(look) == keys for look in looks)
    frames, height, width = source.shape[:3]
    colours = [np.zeros((frames, height, width, 3), np.float32) for _ in looks]
    total = np.full((frames, height, width, 1), 1e-9, np.float32)
    trust = np.zeros((frames, height, width), np.float32)
    for order, key in enumerate(keys):
        for done, (index, positions) in enumerate(_ways_back(source, key, short_side)):
            error = _misfit(source[index], _at(source[key], positions))
            weight = np.exp(-error / TAU)[..., None] + np.float32(1e-6)
            total[index] += weight
            for colour, look in zip(colours, looks, strict=True):
                colour[index] += weight * _at(look[key], positions)
            trust[index] = np.maximum(trust[index], np.exp(-np.square(error / DOUBT)))
            on_step(order * (frames - 1) + done // 2 + 1, len(keys) * (frames - 1))
    trust[keys] = 1.0
    carried = []
    for colour, look in zip(colours, looks, strict=True):
        clip = np.rint(colour / total).clip(0, 255).astype(np.uint8)
        for key in keys:
            clip[key] = look[key]
        carried.append(Carried(clip, trust))
    return carried


def _ways_back(source: Frames, key: int, short_side: int) -> Iterator[tuple[int, _Field]]:
    """For every frame but ``key``, where each of its pixels lies in frame ``key``: step by step, and then refined.

    Yields:
        (frame index, positions ``[H, W, 2]`` x and y in pixels), twice for each frame.
    """
    height, width = source.shape[1:3]
    factor = max(1.0, short_side / min(height, width))
    size = (round(width * factor), round(height * factor))
    enlarge = cv2.INTER_CUBIC if factor > 1 else cv2.INTER_NEAREST
    greys = [cv2.resize(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), size, interpolation=enlarge) for frame in source]
    matcher = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    matcher.setFinestScale(0 if factor > 1 else 1)
    grid = np.stack(np.meshgrid(np.arange(size[0]), np.arange(size[1])), -1).astype(np.float32)
    for order in (range(key + 1, len(source)), range(key - 1, -1, -1)):
        chained = np.zeros_like(grid)
        last = key
        for index in order:
            step = matcher.calc(greys[index], greys[last], np.zeros_like(grid))
            chained = step + _at(chained, grid + step)
            refined = matcher.calc(greys[index], greys[key], chained.copy())
            for flow in (chained, refined):
                yield index, _positions(np.asarray(flow, np.float32), factor, (width, height))
            last = index


def _positions(flow: _Field, factor: float, size: tuple[int, int]) -> _Field:
    """Pixel positions at the clip's own size, of a flow measured on enlarged frames."""
    small = cv2.resize(flow, size, interpolation=cv2.INTER_AREA) / np.float32(factor)
    grid = np.stack(np.meshgrid(np.arange(size[0]), np.arange(size[1])), -1).astype(np.float32)
    return np.asarray(grid + small, np.float32)


def _at(values: NDArray[np.generic], positions: _Field) -> _Field:
    """Values of an image or a field at positions, the border repeated beyond it."""
    x, y = positions[..., 0], positions[..., 1]
    warped = cv2.remap(values.astype(np.float32), x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(warped, np.float32)


def _misfit(one: Image, other: _Field) -> _Field:
    """Mean absolute difference of a pixel's surroundings, ``[H, W]`` in grey levels."""
    difference = np.abs(one.astype(np.float32) - other).mean(-1)
    return np.asarray(cv2.GaussianBlur(difference, (0, 0), 1.0), np.float32)
