"""Carry edited frames through a clip by the source's own optical flow: the classical answer, and a hint for the model.

The flow is that of the source, which is known in every frame, so it can be judged: of several ways from a frame back to
an edited one, every pixel takes those that explain the source best, short ones sooner than long ones, and where none
does it is not trusted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from loraedit.optical_flow import Field, FlowMeter, at, grid, misfit
from loraedit.types import Frames, Image, OnStep, Size, Weights, no_step

__all__ = ["Carried", "carry"]

SHORT_SIDE = 224
"""Frames smaller than this are enlarged before the flow is measured; DIS matches patches of 8 pixels."""

TAU = 8.0
"""Grey levels of difference in the source over which one way back loses to another of the same length."""

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
    on_step: OnStep = no_step,
    short_side: int = SHORT_SIDE,
) -> list[Carried]:
    """Carry edited frames along the motion of the source, several looks at once.

    Args:
        source: uint8 ``[F, H, W, 3]``.
        looks: for each look its edited frames, uint8 ``[H, W, 3]`` by frame index, at least one.
        on_step: told (frames done, frames in all).
        short_side: frames with a shorter side are enlarged before the flow is measured.

    Returns:
        One clip for each look. Trust is a matter of the source alone: looks with the same indices have the same.
    """
    assert all(looks)
    frames, height, width = source.shape[:3]
    colours = [np.zeros((frames, height, width, 3), np.float32) for _ in looks]
    totals = [np.full((frames, height, width, 1), 1e-9, np.float32) for _ in looks]
    trusts = [np.zeros((frames, height, width), np.float32) for _ in looks]
    keys = sorted(set().union(*looks))
    for order, key in enumerate(keys):
        for done, (index, positions) in enumerate(_ways_back(source, key, short_side)):
            error = misfit(source[index], at(source[key], positions))
            weight = (np.exp(-error / TAU)[..., None] + np.float32(1e-6)) / abs(index - key)
            for look, colour, total, trust in zip(looks, colours, totals, trusts, strict=True):
                if key in look:
                    colour[index] += weight * at(look[key], positions)
                    total[index] += weight
                    trust[index] = np.maximum(trust[index], np.exp(-np.square(error / DOUBT)))
            on_step(order * (frames - 1) + done // 2 + 1, len(keys) * (frames - 1))
    carried = []
    for look, colour, total, trust in zip(looks, colours, totals, trusts, strict=True):
        clip = np.rint(colour / total).clip(0, 255).astype(np.uint8)
        for key, image in look.items():
            clip[key], trust[key] = image, 1.0
        carried.append(Carried(clip, trust))
    return carried


def _ways_back(source: Frames, key: int, short_side: int) -> Iterator[tuple[int, Field]]:
    """For every frame but ``key``, where each of its pixels lies in frame ``key``: step by step, and then refined.

    Yields:
        (frame index, positions ``[H, W, 2]`` x and y in pixels), twice for each frame.
    """
    meter = FlowMeter(Size(*source.shape[1:3]), short_side)
    greys = [meter.grey(frame) for frame in source]
    for order in (range(key + 1, len(source)), range(key - 1, -1, -1)):
        chained, last = np.zeros((*greys[key].shape, 2), np.float32), key
        for index in order:
            step = meter.between(greys[index], greys[last])
            chained = step + at(chained, grid(step) + step)
            refined = meter.between(greys[index], greys[key], chained)
            for flow in (chained, refined):
                yield index, grid(source[index]) + meter.at_clip_size(flow)
            last = index
