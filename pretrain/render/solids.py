"""Turning solids in true perspective: ellipsoids, boxes and cylinders, their texture fixed to their surface.

A solid's own space is scaled so that the solid is the unit ball, cube or cylinder. A ray that leaves the eye through a
pixel is linear in the pixel's place, there too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from pretrain.render.dice import Dice
from pretrain.render.motion import View, smooth
from pretrain.render.shape import Surface, coverage

__all__ = ["SOLIDS", "Solid", "turning"]

SOLIDS = ("ball", "box", "can")
MISS = 0.03
"""Edge functions end here: far from a solid they have poles, which are no outlines."""
Point = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class Solid:
    """Solids of one kind.

    Attributes:
        kind: a name in ``SOLIDS``.
        axes: half the extents, ``[n, 3]``, in the object's unit.
        turn: rotation from the solid's own space, ``[n, F, 3, 3]``; z points away from the viewer.
        eye: distance of the eye, ``[n]``, in the object's unit.
        lamp: direction to the light, ``[n, F, 3]``, of length 1.
    """

    kind: str
    axes: Tensor
    turn: Tensor
    eye: Tensor
    lamp: Tensor

    def reach(self) -> Tensor:
        far = self.axes.amax(1) if self.kind == "ball" else self.axes.norm(dim=1)
        return far * self.eye / (self.eye - far)

    def rows(self, index: Tensor) -> Solid:
        index = index.to(self.axes.device)
        return Solid(self.kind, self.axes[index], self.turn[index], self.eye[index], self.lamp[index])

    def surface(self, view: View) -> Surface:
        back = self.turn.mT / self.axes[:, None, :, None]
        eye = self.eye[:, None]
        origin = tuple(-back[:, :, i, 2] * eye for i in range(3))
        ray = tuple(view.linear(back[:, :, i, 0], back[:, :, i, 1], back[:, :, i, 2] * eye) for i in range(3))
        at = tuple(o[..., None, None] for o in origin)
        edge, along = {"ball": _ball, "box": _box, "can": _can}[self.kind](at, ray)
        point = tuple(torch.addcmul(o, along, d) for o, d in zip(at, ray, strict=True))
        u, v, normal = {"ball": _on_ball, "box": _on_box, "can": _on_can}[self.kind](point)
        return Surface(coverage(edge.clamp_(min=-MISS)), u, v, self._light(normal), lambda: self._start(point, normal))

    def _light(self, normal: Point) -> Tensor:
        """Returns the cosine between normal (of the unit solid) and lamp, 0 on the far side."""
        lamp = torch.einsum("nfji,nfj->nfi", self.turn, self.lamp) / self.axes[:, None]
        scales = (1 / self.axes)[:, :, None, None, None].unbind(1)
        facing = sum(part * lamp[..., i, None, None] for i, part in enumerate(normal))
        length = sum((part * scale).square_() for part, scale in zip(normal, scales, strict=True))
        return (facing * length.add_(1e-9).rsqrt_()).clamp_(0, 1)

    def _start(self, point: Point, normal: Point) -> Point:
        """Returns where surface points were in frame 0, and whether they faced the eye."""
        first, eye = self.turn[:, :1], self.eye[:, None, None, None]
        axes = self.axes[:, :, None, None, None].unbind(1)
        body = [part * axis for part, axis in zip(point, axes, strict=True)]
        x, y, z = (sum(first[..., i, j, None, None] * body[j] for j in range(3)) for i in range(3))
        outward = [part / axis for part, axis in zip(normal, axes, strict=True)]
        nx, ny, nz = (sum(first[..., i, j, None, None] * outward[j] for j in range(3)) for i in range(3))
        near = eye / (z + eye)
        return x * near, y * near, (nx * x + ny * y + nz * (z + eye)) < 0


def turning(dice: Dice, kind: str, count: int, frames: int) -> Solid:
    """Draws solids that turn about an axis of their own, some of them hardly."""
    axes = dice.uniform(0.5, 0.95, count, 3)
    if kind == "box":
        axes = axes * 0.8
        axes[:, 2] *= 1 - 0.87 * dice.some(0.25, count)
    if kind == "can":
        axes = torch.stack([axes[:, 0] * 0.8, axes[:, 1], axes[:, 0] * 0.8], 1)
    axis = F.normalize(dice.normal(count, 3) * torch.tensor([0.5, 1.0, 0.35], device=dice.device), dim=1)
    angle = smooth(dice, count, frames, dice.uniform(0, 0.11, count), dice.uniform(0, 0.25, count))
    tilt = _rotation(F.normalize(dice.normal(count, 3), dim=1), dice.uniform(-0.7, 0.7, count, 1))
    lamp = dice.normal(count, 1, 3) * 0.5 + torch.tensor([-0.2, -0.7, -0.9], device=dice.device)
    sways = dice.some(0.3, count)
    sway = smooth(dice, count, frames, sways * 0.05, sways * 0.2)[..., None]
    sway = sway * torch.tensor([1.0, 0.3, 0.0], device=dice.device)
    lamp = F.normalize(lamp + sway, dim=-1)
    return Solid(kind, axes, _rotation(axis, angle) @ tilt, dice.uniform(3.5, 9, count), lamp)


def _rotation(axis: Tensor, angle: Tensor) -> Tensor:
    """Returns rotations ``[n, F, 3, 3]`` about axes ``[n, 3]`` by angles ``[n, F]`` (Rodrigues' formula)."""
    zero = torch.zeros_like(axis[:, 0])
    x, y, z = axis.unbind(1)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], 1).view(-1, 1, 3, 3)
    sin, cos = torch.sin(angle)[..., None, None], torch.cos(angle)[..., None, None]
    return torch.eye(3, device=axis.device) + sin * cross + (1 - cos) * (cross @ cross)


def _dot(one: Point, other: Point) -> Tensor:
    return torch.addcmul(torch.addcmul(one[0] * other[0], one[1], other[1]), one[2], other[2])


def _away(value: Tensor) -> Tensor:
    """Keeps a divisor away from 0."""
    return torch.where(value.abs() < 1e-5, 1e-5, value)


def _ball(origin: Point, ray: Point) -> tuple[Tensor, Tensor]:
    """Returns an edge function and how far along the ray the unit ball is met, or passed nearest."""
    a, b = _dot(ray, ray), _dot(origin, ray)
    inside = b.square() - a * (_dot(origin, origin) - 1)
    return inside / a, (-b - inside.clamp(min=0).sqrt_()).div_(a)


def _box(origin: Point, ray: Point) -> tuple[Tensor, Tensor]:
    """The same for the cube from -1 to 1: the ray is inside between the last slab it enters and the first it leaves."""
    enter, leave = [], []
    for o, d in zip(origin, ray, strict=True):
        pace = _away(d).reciprocal_()
        middle, reach = -o * pace, pace.abs_()
        enter.append(middle - reach)
        leave.append(middle.add_(reach))
    first = torch.maximum(torch.maximum(enter[0], enter[1]), enter[2])
    last = torch.minimum(torch.minimum(leave[0], leave[1]), leave[2])
    return last - first, first


def _can(origin: Point, ray: Point) -> tuple[Tensor, Tensor]:
    """The same for the cylinder about y with radius 1, from -1 to 1."""
    a = torch.addcmul(ray[0].square(), ray[2], ray[2]).clamp_(min=1e-5)
    b = torch.addcmul(origin[0] * ray[0], origin[2], ray[2])
    inside = b.square() - a * (origin[0].square() + origin[2].square() - 1)
    root = inside.abs().sqrt_().copysign_(inside)
    pace = _away(ray[1]).reciprocal_()
    middle, reach = -origin[1] * pace, pace.abs()
    first = torch.maximum((-b - root) / a, middle - reach)
    last = torch.minimum((root - b) / a, middle + reach)
    return last - first, first


def _on_ball(point: Point) -> tuple[Tensor, Tensor, Point]:
    """Returns place on the texture and normal: each half shows the whole texture, in equal areas."""
    shrink = (point[2].abs() + 1).rsqrt_().mul_(0.5)
    return (point[0] * shrink).add_(0.5).clamp_(0, 1), (point[1] * shrink).add_(0.5).clamp_(0, 1), point


def _on_box(point: Point) -> tuple[Tensor, Tensor, Point]:
    """The same for a cube: every pair of faces has a quarter of the texture."""
    x, y, z = (part.clamp(-1, 1) for part in point)
    far = [part.abs() for part in (x, y, z)]
    on_x = (far[0] >= far[1]) & (far[0] >= far[2])
    on_y = ~on_x & (far[1] >= far[2])
    across, down = torch.where(on_x, z, x), torch.where(on_y, z, y)
    u = across.mul_(0.23).add_(0.25).add_(on_x, alpha=0.5)
    v = down.mul_(0.23).add_(0.25).add_(on_y, alpha=0.5)
    on_z = ~(on_x | on_y)
    return u, v, (x * on_x, y * on_y, z * on_z)


def _on_can(point: Point) -> tuple[Tensor, Tensor, Point]:
    """The same for a cylinder: front and back are mirrored, the lids show the texture flat."""
    x, y, z = (part.clamp(-1, 1) for part in point)
    lid = y.abs() >= 0.9999
    round_ = torch.atan2(x, z.abs()).mul_(2 / math.pi)
    u = torch.where(lid, x, round_).mul_(0.5).add_(0.5)
    v = torch.where(lid, z, y).mul_(0.5).add_(0.5)
    side = ~lid
    return u, v, (x * side, y * lid, z * side)
