"""How objects and cameras move: smooth paths over time, and the map from the screen to an object's own plane.

Screen coordinates have x to the right and y down; the frame's shorter side spans [-1, 1]. Time is counted in frames,
so a longer clip shows more of the same motion.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pretrain.render.dice import Dice

__all__ = ["Camera", "Pose", "View", "moving_camera", "moving_pose", "riding", "seen_by", "smooth"]

HARMONICS = 3


def smooth(dice: Dice, count: int, frames: int, speed: Tensor, wobble: Tensor) -> Tensor:
    """Returns displacements ``[count, frames]``, 0 in frame 0: a steady drift plus a few slow waves.

    Args:
        speed: the most that a path drifts in a frame, ``[count]``.
        wobble: size of the waves, ``[count]``.
    """
    time = torch.arange(frames, device=dice.device, dtype=torch.float32)
    order = torch.arange(1, HARMONICS + 1, device=dice.device, dtype=torch.float32)
    pace = 2 * math.pi * order / dice.uniform(22, 55, count, 1)
    phase, size = dice.angle(count, HARMONICS), dice.normal(count, HARMONICS) / order * wobble[:, None]
    waves = size[..., None] * torch.sin(pace[..., None] * time + phase[..., None])
    drift = (dice.uniform(-1, 1, count) * speed)[:, None] * time
    return drift + (waves - waves[..., :1]).sum(1)


@dataclass(frozen=True)
class Pose:
    """Where an object is over time; each field is ``[n, F]``.

    Attributes:
        x: centre, screen coordinates.
        y: centre, screen coordinates.
        scale: length of the object's own unit.
        angle: clockwise, radians.
    """

    x: Tensor
    y: Tensor
    scale: Tensor
    angle: Tensor

    def rows(self, index: Tensor) -> Pose:
        """Returns the poses of some rows."""
        index = index.to(self.x.device)
        return Pose(self.x[index], self.y[index], self.scale[index], self.angle[index])


@dataclass(frozen=True)
class Camera:
    """Where the camera looks over time: pan ``[n, F]`` in x and y, zoom ``[n, F]``, roll ``[n, F]`` in radians."""

    x: Tensor
    y: Tensor
    zoom: Tensor
    roll: Tensor


def moving_camera(dice: Dice, count: int, frames: int, share: float) -> Camera:
    """Draws cameras that pan, zoom and roll; the others (1 - ``share``) stand still.

    A handheld camera is one whose waves are large beside its drift.
    """
    moves = dice.some(share, count)
    pan, shake = moves * dice.uniform(0, 0.05, count), moves * dice.uniform(0, 0.12, count)
    zooms, rolls = moves * dice.some(0.5, count), moves * dice.some(0.35, count)
    return Camera(
        smooth(dice, count, frames, pan, shake),
        smooth(dice, count, frames, pan * 0.7, shake * 0.6),
        torch.exp(smooth(dice, count, frames, zooms * 0.02, zooms * 0.06)),
        smooth(dice, count, frames, rolls * 0.02, rolls * 0.08),
    )


def moving_pose(dice: Dice, scale: Tensor, frames: int, reach: tuple[float, float], upright: bool) -> Pose:
    """Draws paths whose middle lies within ``reach`` (x and y) of the frame's centre.

    A tenth of the objects stand still, a sixth hop along.

    Args:
        scale: of each object, ``[n]``.
        reach: how far from the centre the middle of a path may lie.
        upright: whether the object stays upright.
    """
    count, moves = len(scale), dice.some(0.9, len(scale))
    speed, wobble = moves * dice.uniform(0.01, 0.055, count), moves * dice.uniform(0, 0.16, count)
    x = smooth(dice, count, frames, speed, wobble)
    y = smooth(dice, count, frames, speed * (0.3 if upright else 0.8), wobble * 0.6)
    time = torch.arange(frames, device=dice.device, dtype=torch.float32)
    hop = (dice.some(0.16, count) * dice.uniform(0.1, 0.35, count))[:, None]
    y = y - hop * torch.sin(math.pi * (time / dice.uniform(6, 14, count, 1) + dice.uniform(0, 1, count, 1))).abs()
    x = x - x.mean(1, keepdim=True) + dice.uniform(-reach[0], reach[0], count, 1)
    y = y - y.mean(1, keepdim=True) + dice.uniform(-reach[1], reach[1], count, 1)
    grows = moves * dice.some(0.5, count)
    size = scale[:, None] * torch.exp(smooth(dice, count, frames, grows * 0.025, grows * 0.08).clamp(-0.6, 0.6))
    spins = moves * dice.some(0.15 if upright else 0.6, count) * (0.2 if upright else 1.0)
    angle = smooth(dice, count, frames, spins * 0.08, spins * 0.15)
    return Pose(x, y, size, angle if upright else angle + dice.uniform(-0.5, 0.5, count, 1))


def seen_by(camera: Camera, pose: Pose, follow: Tensor) -> Pose:
    """Returns a pose as the camera shows it.

    Args:
        follow: how much of the camera's pan the object shares, ``[n]``; an object that shares all stays in view.
    """
    rest = (1 - follow)[:, None]
    x, y = pose.x - rest * camera.x, pose.y - rest * camera.y
    cos, sin = torch.cos(camera.roll) * camera.zoom, torch.sin(camera.roll) * camera.zoom
    return Pose(cos * x + sin * y, cos * y - sin * x, pose.scale * camera.zoom, pose.angle - camera.roll)


def riding(pose: Pose, x: Tensor, y: Tensor, size: Tensor) -> Pose:
    """Returns the pose of a part fixed to an object, at (x, y) in the object's own unit, each ``[n]``."""
    cos, sin = torch.cos(pose.angle) * pose.scale, torch.sin(pose.angle) * pose.scale
    x, y = x[:, None], y[:, None]
    return replace(pose, x=pose.x + cos * x - sin * y, y=pose.y + sin * x + cos * y, scale=pose.scale * size[:, None])


class View:
    """The pixels of a frame, seen from an object's own plane.

    A linear function of the plane is linear on the screen too, so :meth:`linear` costs one addition a pixel.

    Args:
        pose: of n objects in F frames.
        x: screen x of the columns, ``[W]``.
        y: screen y of the rows, ``[H]``.
        window: the rows and columns that are looked at.
    """

    def __init__(self, pose: Pose, x: Tensor, y: Tensor, window: tuple[slice, slice]) -> None:
        self.pose, self._x, self._y, self._corner = pose, x[window[1]], y[window[0]], (x[0], y[0])
        self._cos, self._sin = torch.cos(pose.angle) / pose.scale, torch.sin(pose.angle) / pose.scale
        self.pixel = (x[1] - x[0]) / pose.scale
        """Size of a pixel in the object's unit, ``[n, F]``."""

    def linear(self, p: Tensor | float, q: Tensor | float, c: Tensor | float) -> Tensor:
        """Returns ``p * x + q * y + c`` of the plane's x and y at every pixel, ``[n, F, H, W]``.

        Args:
            p: a number or ``[n, F]``.
            q: likewise.
            c: likewise.
        """
        across, down = p * self._cos - q * self._sin, p * self._sin + q * self._cos
        rest = c - across * self.pose.x - down * self.pose.y
        return across[..., None, None] * self._x + (down[..., None, None] * self._y[:, None] + rest[..., None, None])

    def plane(self) -> tuple[Tensor, Tensor]:
        """Returns x and y of the object's own plane at every pixel, each ``[n, F, H, W]``."""
        return self.linear(1.0, 0.0, 0.0), self.linear(0.0, 1.0, 0.0)

    def screen(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Returns where points of the plane are seen in frame 0, as column and row in pixels."""
        angle, scale = (value[:, :1, None, None] for value in (self.pose.angle, self.pose.scale))
        cos, sin = angle.cos(), angle.sin()
        across = self.pose.x[:, :1, None, None] + scale * (cos * x - sin * y)
        down = self.pose.y[:, :1, None, None] + scale * (sin * x + cos * y)
        step = self._x[1] - self._x[0]
        return (across - self._corner[0]) / step, (down - self._corner[1]) / step
