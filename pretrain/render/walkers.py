"""Articulated walkers: limbs are tapered capsules between joints that swing as in walking."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pretrain.render.dice import Dice
from pretrain.render.motion import View
from pretrain.render.shape import Surface

__all__ = ["TILES", "Walker"]

LIMBS = 11
"""From back to front: far arm (2), far leg (2), near leg (2), trunk, head, hat, near arm (2)."""
COAT, TROUSERS, SKIN, HAT = range(4)
TILES = 4
"""A walker's texture is four quarters: coat, trousers, skin, hat."""
TILE_OF = (COAT, COAT, TROUSERS, TROUSERS, TROUSERS, TROUSERS, COAT, SKIN, HAT, COAT, COAT)
DIM_OF = (0.75, 0.75, 0.75, 0.75, 1.0, 1.0, 1.0, 1.0, 1.0, 0.95, 0.95)
"""Limbs on the far side are in the shade."""


@dataclass(frozen=True)
class Walker:
    """Walkers as capsules.

    Attributes:
        ends: both ends of every limb over time, ``[n, F, LIMBS, 4]`` (x, y, x, y) in the walker's unit.
        radius: at both ends, ``[n, LIMBS, 2]``; 0 hides a limb.
    """

    ends: Tensor
    radius: Tensor

    @classmethod
    def draw(cls, dice: Dice, count: int, frames: int) -> Walker:
        """Draws walkers of varied build, stride and pace, facing left or right; 40 % wear a hat."""
        time = torch.arange(frames, device=dice.device, dtype=torch.float32)
        facing = dice.sign(count, 1)
        build, stride = dice.uniform(0.75, 1.3, count, 1), dice.uniform(0.2, 0.6, count, 1)
        phase = 2 * math.pi * (time / dice.uniform(9, 22, count, 1) + dice.uniform(0, 1, count, 1))
        lean = dice.uniform(-0.08, 0.2, count, 1)
        bob = 0.03 * torch.cos(2 * phase)
        hip = (0 * phase, 0.12 + bob)
        neck = (lean * 0.6 + 0 * phase, -0.5 + bob)
        limbs = [None] * LIMBS
        for first, offset in ((2, math.pi), (4, 0.0)):
            limbs[first], limbs[first + 1] = _leg(hip, phase + offset, stride)
        for first, offset in ((0, 0.0), (9, math.pi)):
            limbs[first], limbs[first + 1] = _arm(neck, phase + offset, stride * dice.uniform(0.5, 1.2, count, 1))
        head = (neck[0] + lean * 0.3, neck[1] - 0.24)
        brim = dice.uniform(0.1, 0.17, count, 1)
        limbs[6] = (neck[0], neck[1] + 0.06, *hip)
        limbs[7] = (*head, head[0], head[1] + 0.05)
        limbs[8] = (head[0] - brim, head[1] - 0.13, head[0] + brim, head[1] - 0.13)
        mirror = torch.stack([facing, torch.ones_like(facing)] * 2, -1)
        ends = torch.stack([torch.stack([part.expand_as(phase) for part in limb], -1) for limb in limbs], 2)
        thick = torch.tensor(
            [(0.07, 0.06), (0.06, 0.05), (0.1, 0.08), (0.075, 0.055), (0.1, 0.08), (0.075, 0.055), (0.17, 0.16),
             (0.13, 0.12), (0.09, 0.09), (0.075, 0.06), (0.06, 0.05)], device=dice.device,
        )  # fmt: skip
        radius = thick * build[..., None]
        radius[:, 7] = thick[7] * dice.uniform(0.9, 1.25, count, 1)
        radius[:, 8] *= dice.some(0.4, count, 1)
        return cls(ends * mirror[:, :, None], radius)

    def reach(self) -> Tensor:
        joints = self.ends.unflatten(-1, (2, 2)).norm(dim=-1).amax((1, 2, 3))
        return joints + self.radius.amax((1, 2))

    def rows(self, index: Tensor) -> Walker:
        index = index.to(self.ends.device)
        return Walker(self.ends[index], self.radius[index])

    def surface(self, view: View) -> Surface:
        x0, y0, x1, y1 = self.ends.unbind(-1)
        length = torch.hypot(x1 - x0, y1 - y0).clamp(min=1e-4)
        dx, dy = (x1 - x0) / length, (y1 - y0) / length
        cover = best = limb = None
        for index in range(LIMBS):
            at = (x0[..., index], y0[..., index], dx[..., index], dy[..., index], length[..., index])
            edge = _distance(view, at, self.radius[:, None, index])
            part = (edge / view.pixel[..., None, None]).add_(0.5).clamp_(0, 1)
            if cover is None:
                cover, best = part, part
                limb = torch.zeros_like(part, dtype=torch.int64)
                continue
            front = (part >= 0.5) | (part > best)
            best = torch.where(front, part, best)
            limb = torch.where(front, index, limb)
            cover = torch.maximum(cover, part)
        return self._painted(view, cover, limb, (x0, y0, dx, dy, length))

    def _painted(self, view: View, cover: Tensor, limb: Tensor, ends: tuple[Tensor, ...]) -> Surface:
        """Finds the place on the texture, now that it is known which limb is seen."""
        x0, y0, dx, dy, length = ends
        wide = self.radius.amax(-1)[:, None].clamp(min=1e-4).expand_as(length)
        flat = limb.flatten(2)

        def of_limb(values: Tensor) -> Tensor:
            return values.gather(2, flat).view_as(limb)

        x, y = view.plane()
        from_x, from_y = x - of_limb(x0), y - of_limb(y0)
        way_x, way_y, radius = of_limb(dx), of_limb(dy), of_limb(wide)
        along, side = from_x * way_x + from_y * way_y, from_y * way_x - from_x * way_y
        tile = torch.tensor(TILE_OF, device=limb.device)[limb]
        dim = torch.tensor(DIM_OF, device=limb.device)[limb]
        u = (0.25 + 0.23 * (side / radius).clamp(-1, 1)) + 0.5 * (tile % 2)
        v = (0.04 + 0.42 * ((along + radius) / of_limb(length + 2 * wide)).clamp(0, 1)) + 0.5 * (tile // 2)

        def start() -> tuple[Tensor, Tensor, Tensor]:
            first = [part[:, :1].expand_as(part) for part in (x0, y0, dx, dy, length)]
            far = along * of_limb(first[4]) / of_limb(length)
            fx, fy = of_limb(first[2]), of_limb(first[3])
            return of_limb(first[0]) + far * fx - side * fy, of_limb(first[1]) + far * fy + side * fx, cover > 0

        return Surface(cover, u, v, dim, start)


def _distance(view: View, limb: tuple[Tensor, ...], radius: Tensor) -> Tensor:
    """Returns how deep inside a tapered capsule each pixel lies, negative outside, in the walker's unit."""
    x0, y0, dx, dy, length = limb
    along = view.linear(dx / length, dy / length, -(x0 * dx + y0 * dy) / length)
    side = view.linear(-dy, dx, x0 * dy - y0 * dx)
    share = along.clamp(0, 1)
    over = along.sub_(share).mul_(length[..., None, None])
    apart = over.square_().add_(side.square_()).sqrt_()
    near, far = radius[..., :1, None], radius[..., 1:, None]
    deep = near + (far - near) * share - apart
    return torch.where(near > 0, deep, -1.0)


def _leg(hip: tuple[Tensor, Tensor], phase: Tensor, stride: Tensor) -> tuple[tuple[Tensor, ...], ...]:
    """Returns thigh and shin; the knee bends while the leg swings forward."""
    thigh = stride * torch.sin(phase)
    shin = thigh - stride * 1.3 * torch.cos(phase).clamp(min=0) - 0.05
    return _chain(hip, thigh, 0.42, shin, 0.42)


def _arm(neck: tuple[Tensor, Tensor], phase: Tensor, stride: Tensor) -> tuple[tuple[Tensor, ...], ...]:
    """Returns upper arm and forearm, which is bent a little forward."""
    upper = stride * torch.sin(phase)
    return _chain((neck[0], neck[1] + 0.08), upper, 0.3, upper + 0.35, 0.28)


def _chain(
    joint: tuple[Tensor, Tensor], first: Tensor, one: float, second: Tensor, two: float
) -> tuple[tuple[Tensor, ...], ...]:
    """Returns two limbs in a row, each hanging at an angle from straight down."""
    middle = (joint[0] + one * torch.sin(first), joint[1] + one * torch.cos(first))
    end = (middle[0] + two * torch.sin(second), middle[1] + two * torch.cos(second))
    return (*joint, *middle), (*middle, *end)
