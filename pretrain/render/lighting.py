"""What happens between the scene and its pixels: light that changes, shadows, blur and grain."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from pretrain.render.dice import Dice
from pretrain.render.motion import smooth

__all__ = ["Light", "cast_shadow", "draw_light", "lens"]

AMBIENT = 0.45


@dataclass(frozen=True)
class Light:
    """Light and lens of n clips.

    Attributes:
        gain: of each colour over time, ``[n, F, 3]``.
        slope: how much brighter the frame is to the right and to the bottom, over time, ``[n, F, 2]``.
        blur: share of a 3 x 3 blur in every frame, ``[n]``.
        grain: standard deviation of the noise, ``[n]``, pixels in [0, 1].
    """

    gain: Tensor
    slope: Tensor
    blur: Tensor
    grain: Tensor


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
        dice.some(0.3, count) * dice.uniform(0.1, 0.6, count),
        dice.some(0.3, count) * dice.uniform(0.002, 0.012, count),
    )


def shaded(light: Tensor) -> Tensor:
    """Returns brightness of a surface by how directly the light falls on it."""
    return light * (1.25 - AMBIENT) + AMBIENT


def cast_shadow(cover: Tensor, right: int, down: int) -> Tensor:
    """Returns a soft shadow in [0, 1] of objects ``[n, F, H, W]``, moved by whole pixels."""
    height, width = cover.shape[-2:]
    pads = (max(right, 0), max(-right, 0), max(down, 0), max(-down, 0))
    moved = F.pad(cover, pads)[..., max(-down, 0) :, max(-right, 0) :][..., :height, :width]
    return F.interpolate(F.avg_pool2d(moved, 4), size=(height, width), mode="bilinear", align_corners=False)


def lens(dice: Dice, picture: Tensor, light: Light, x: Tensor, y: Tensor) -> Tensor:
    """Applies light, blur and grain to clips ``[n, 3, F, H, W]``; changes them in place."""
    across, down = (light.slope[:, None, :, None, None, i] for i in range(2))
    slope = 1 + across * x + down * y[:, None]
    picture.mul_(slope).mul_(light.gain.mT[..., None, None])
    rows = light.blur.nonzero().flatten()
    if len(rows):
        some = picture[rows].flatten(1, 2)
        soft = F.avg_pool2d(F.pad(some, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
        share = light.blur[rows].view(-1, 1, 1, 1)
        picture[rows] = torch.lerp(some, soft, share).view(-1, *picture.shape[1:])
    rows = light.grain.nonzero().flatten()
    if len(rows):
        picture[rows] += light.grain[rows].view(-1, 1, 1, 1, 1) * dice.noise(len(rows), *picture.shape[1:])
    return picture
