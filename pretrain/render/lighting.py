"""What happens between the scene and its pixels: light that changes, shadows, blur and grain."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from pretrain.render.dice import Dice
from pretrain.render.motion import smooth

__all__ = ["SHADOW_BLOCK", "Light", "cast_shadow", "draw_light", "lens"]

AMBIENT = 0.45
SHADOW_BLOCK = 4
"""Shadows are blurred over blocks of so many pixels."""


@dataclass(frozen=True)
class Light:
    """Light and lens of n clips.

    Attributes:
        gain: of each colour over time, ``[n, F, 3]``.
        slope: how much brighter the frame is to the right and to the bottom, over time, ``[n, F, 2]``.
        blur: which clips are blurred (on the host), and the share of a 3 x 3 blur in each.
        grain: which clips have grain (on the host), and the standard deviation of each, pixels in [0, 1].
    """

    gain: Tensor
    slope: Tensor
    blur: tuple[Tensor, Tensor]
    grain: tuple[Tensor, Tensor]


def draw_light(dice: Dice, count: int, frames: int) -> Light:
    """Draws light that changes in two clips of five, and a lens that blurs or a sensor with grain in a third each."""
    gets = [dice.some(share, count) for share in (0.25, 0.15, 0.25)]
    brightness = smooth(dice, count, frames, gets[0] * 0.012, gets[0] * 0.06)
    tint = torch.stack([smooth(dice, count, frames, gets[1] * 0.006, gets[1] * 0.04) for _ in range(3)], -1)
    slopes = []
    for _ in range(2):
        first = dice.uniform(-0.2, 0.2, count, 1) * gets[2][:, None]
        slopes.append(first + smooth(dice, count, frames, gets[2] * 0.015, gets[2] * 0.08))
    slope = torch.stack(slopes, -1)
    return Light(
        torch.exp(brightness[..., None] + tint).clamp(0.5, 1.6),
        slope.clamp(-0.45, 0.45),
        _for_some(dice, count, 0.1, 0.6),
        _for_some(dice, count, 0.002, 0.012),
    )


def _for_some(dice: Dice, count: int, low: float, high: float) -> tuple[Tensor, Tensor]:
    """Draws three clips of ten, and a number for each of them."""
    rows = (dice.pick([0.7, 0.3], count) == 1).nonzero().flatten()
    return rows, dice.uniform(low, high, len(rows))


def shaded(light: Tensor) -> Tensor:
    """Returns brightness of a surface by how directly the light falls on it."""
    return light * (1.25 - AMBIENT) + AMBIENT


def cast_shadow(cover: Tensor, right: int, down: int) -> Tensor:
    """Returns a soft shadow in [0, 1] of objects ``[n, F, H, W]``, moved by whole pixels."""
    height, width = cover.shape[-2:]
    pads = (max(right, 0), max(-right, 0), max(down, 0), max(-down, 0))
    moved = F.pad(cover, pads)[..., max(-down, 0) :, max(-right, 0) :][..., :height, :width]
    return F.interpolate(F.avg_pool2d(moved, SHADOW_BLOCK), size=(height, width), mode="bilinear", align_corners=False)


def lens(dice: Dice, picture: Tensor, light: Light, x: Tensor, y: Tensor) -> Tensor:
    """Applies light, blur and grain to clips ``[n, 3, F, H, W]``; changes them in place."""
    across, down = (light.slope[:, None, :, None, None, i] for i in range(2))
    slope = 1 + across * x + down * y[:, None]
    picture.mul_(slope).mul_(light.gain.mT[..., None, None])
    for some, change in ((light.blur, _blurred), (light.grain, partial(_grainy, dice))):
        rows = some[0].to(picture.device)
        if len(rows):
            picture[rows] = change(picture[rows], some[1].view(-1, 1, 1, 1, 1))
    return picture


def _blurred(clips: Tensor, share: Tensor) -> Tensor:
    frames = clips.flatten(1, 2)
    soft = F.avg_pool2d(F.pad(frames, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    return torch.lerp(clips, soft.view_as(clips), share)


def _grainy(dice: Dice, clips: Tensor, deviation: Tensor) -> Tensor:
    return clips + deviation * dice.normal(*clips.shape)
