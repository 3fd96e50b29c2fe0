"""Flat objects whose outlines may change over time: radial outlines (blobs, stars, plates, polygons) and metaballs."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pretrain.render.dice import Dice
from pretrain.render.motion import View
from pretrain.render.shape import Surface, coverage

__all__ = ["Metaballs", "Outline", "bars", "outlines"]

DIRECTIONS = 192
"""Directions in which an outline's radius is tabulated."""
ORDERS = 6
OUTLINES = ("blob", "star", "plate", "polygon")


@dataclass(frozen=True)
class Outline:
    """A radius for every direction and frame, ``[n, F, DIRECTIONS + 1]``. The texture stretches with the outline."""

    radius: Tensor

    def reach(self) -> Tensor:
        return self.radius.amax((1, 2))

    def rows(self, index: Tensor) -> Outline:
        return Outline(self.radius[index.to(self.radius.device)])

    def surface(self, view: View) -> Surface:
        x, y = view.plane()
        distance = torch.hypot(x, y).clamp_(min=1e-6)
        place = torch.atan2(y, x).mul_(DIRECTIONS / (2 * math.pi)).add_(DIRECTIONS / 2).clamp_(0, DIRECTIONS - 1e-3)
        low = place.long()
        share = place - low
        outline = self._at(self.radius, low, share)
        cover = ((outline - distance) / view.pixel[..., None, None]).add_(0.5).clamp_(0, 1)
        half = 0.5 / outline

        def start() -> tuple[Tensor, Tensor, Tensor]:
            first = self._at(self.radius[:, :1].expand_as(self.radius), low, share) / outline
            return x * first, y * first, torch.ones_like(x, dtype=torch.bool)

        return Surface(cover, (x * half).add_(0.5).clamp_(0, 1), (y * half).add_(0.5).clamp_(0, 1), None, start)

    @staticmethod
    def _at(radius: Tensor, low: Tensor, share: Tensor) -> Tensor:
        """Looks the radius up between two tabulated directions."""
        flat, table = low.flatten(2), radius
        before, step = table.gather(2, flat), table.diff(dim=2).gather(2, flat)
        return torch.addcmul(before, step, share.flatten(2)).view_as(share)


def outlines(dice: Dice, count: int, frames: int, kind: str) -> Outline:
    """Draws outlines of a kind in ``OUTLINES``; three in five of them keep changing."""
    angle = torch.linspace(-math.pi, math.pi, DIRECTIONS + 1, device=dice.device)
    shape = _still(dice, count, kind, angle)
    order = torch.arange(1, ORDERS + 1, device=dice.device, dtype=torch.float32)
    time = torch.arange(frames, device=dice.device, dtype=torch.float32)
    size = dice.uniform(0, 0.24, count, ORDERS) / order.sqrt() * dice.some(0.6, count, 1)
    pace, phase = 2 * math.pi / dice.uniform(9, 40, count, ORDERS), dice.angle(count, ORDERS)
    beat = size[..., None] * torch.sin(pace[..., None] * time + phase[..., None])
    waves = torch.cos(order[:, None] * angle + dice.angle(count, ORDERS, 1))
    change = 1 + torch.einsum("nkf,nka->nfa", beat, waves)
    return Outline((shape[:, None] * change).clamp(0.12, 1.25))


def _still(dice: Dice, count: int, kind: str, angle: Tensor) -> Tensor:
    """Returns radii ``[count, DIRECTIONS + 1]`` of outlines at rest, at most about 1."""
    turned = angle + dice.angle(count, 1)
    if kind == "blob":
        order = torch.arange(1, ORDERS + 1, device=dice.device, dtype=torch.float32)
        size = dice.normal(count, ORDERS) * 0.2 / order
        waves = torch.cos(order[:, None] * angle + dice.angle(count, ORDERS, 1))
        return 0.78 + (size[..., None] * waves).sum(1)
    if kind == "star":
        arms = dice.indices(5, count).to(dice.device)[:, None] + 3
        depth, sharpness = dice.uniform(0.2, 0.55, count, 1), dice.uniform(0.6, 1.8, count, 1)
        return 1 - depth * (0.5 + 0.5 * torch.cos(arms * turned)) ** sharpness
    if kind == "polygon":
        corners = dice.indices(4, count).to(dice.device)[:, None] + 3
        sector = 2 * math.pi / corners
        return torch.cos(sector / 2) / torch.cos(torch.remainder(turned, sector) - sector / 2)
    power, aspect = dice.uniform(2, 9, count, 1), dice.uniform(0.5, 1, count, 1)
    return _superellipse(angle, aspect, torch.ones_like(aspect), power)


def _superellipse(angle: Tensor, width: Tensor, height: Tensor, power: Tensor) -> Tensor:
    across, down = (torch.cos(angle) / width).abs() ** power, (torch.sin(angle) / height).abs() ** power
    return (across + down) ** (-1 / power)


def bars(dice: Dice, count: int, frames: int) -> Outline:
    """Draws still bars that are longer than the frame: poles and beams to pass behind."""
    angle = torch.linspace(-math.pi, math.pi, DIRECTIONS + 1, device=dice.device)
    width, power = dice.uniform(0.1, 0.24, count, 1), dice.uniform(3, 9, count, 1)
    shape = _superellipse(angle, width, torch.full_like(width, 2.2), power)
    return Outline(shape[:, None].expand(-1, frames, -1))


BALLS = 4


@dataclass(frozen=True)
class Metaballs:
    """Drops that flow together and apart; the texture stays where the object is.

    Attributes:
        x: centres over time, ``[n, F, BALLS]``.
        y: likewise.
        strength: squared radii, ``[n, BALLS]``.
    """

    x: Tensor
    y: Tensor
    strength: Tensor

    @classmethod
    def draw(cls, dice: Dice, count: int, frames: int) -> Metaballs:
        """Draws drops that circle the object's centre."""
        time = torch.arange(frames, device=dice.device, dtype=torch.float32)[:, None]
        pace = dice.sign(count, 1, BALLS) * dice.uniform(0.02, 0.2, count, 1, BALLS)
        turn, far = dice.angle(count, 1, BALLS) + pace * time, dice.uniform(0.1, 0.55, count, 1, BALLS)
        return cls(far * torch.cos(turn), far * torch.sin(turn), dice.uniform(0.06, 0.16, count, BALLS))

    def reach(self) -> Tensor:
        farthest = torch.hypot(self.x, self.y).amax((1, 2))
        return farthest + self.strength.sum(1).sqrt()

    def rows(self, index: Tensor) -> Metaballs:
        index = index.to(self.x.device)
        return Metaballs(self.x[index], self.y[index], self.strength[index])

    def surface(self, view: View) -> Surface:
        x, y = view.plane()
        field = torch.full_like(x, -1.0)
        for ball in range(BALLS):
            at_x, at_y = self.x[..., ball, None, None], self.y[..., ball, None, None]
            squared = (x - at_x).square_().add_((y - at_y).square_()).add_(0.01)
            field += self.strength[:, None, ball, None, None] / squared
        cover = coverage(field)
        u, v = (x * 0.5).add_(0.5).clamp_(0, 1), (y * 0.5).add_(0.5).clamp_(0, 1)
        return Surface(cover, u, v, None, lambda: (x, y, torch.ones_like(x, dtype=torch.bool)))
