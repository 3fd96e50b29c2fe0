"""Draws scenes: background, layers from back to front, then light and lens."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pretrain.render.atlas import pyramid, sample
from pretrain.render.dice import Dice
from pretrain.render.lighting import cast_shadow, lens, shaded
from pretrain.render.motion import View
from pretrain.render.scene import Layer, Scene

__all__ = ["Rendered", "render"]


@dataclass(frozen=True)
class Rendered:
    """A batch of clips.

    Attributes:
        frames: uint8 ``[B, 3, F, H, W]``.
        visible: how much of each pixel the first object (with its parts) covers, float32 ``[B, F, H, W]`` in [0, 1].
        moving: the same of all objects.
        positions: column and row in frame 0, in pixels, of what the first object shows at each pixel,
            ``[B, F, H, W, 2]``; NaN where there is no first object, or where it showed its other side. None unless
            asked for.
    """

    frames: Tensor
    visible: Tensor
    moving: Tensor
    positions: Tensor | None

    @property
    def pixels(self) -> Tensor:
        """The clips as float32 in [-1, 1]."""
        return self.frames.float().div_(127.5).sub_(1)


class _Canvas:
    """Clips while they are drawn."""

    def __init__(self, scene: Scene, height: int, width: int, flat: bool, positions: bool) -> None:
        device, short = scene.extent.device, min(height, width)
        self.flat, self.short = flat, short
        self.x = (torch.arange(width, device=device) + 0.5 - width / 2) * (2 / short)
        self.y = (torch.arange(height, device=device) + 0.5 - height / 2) * (2 / short)
        self.picture = _ground(scene, self.x, self.y, short)
        self.visible = torch.zeros((scene.count, scene.frames, height, width), device=device)
        self.moving = torch.zeros_like(self.visible)
        self.positions = self.visible.new_full((*self.visible.shape, 2), math.nan) if positions else None

    def draw(self, layer: Layer) -> None:
        """Draws a layer over what is there."""
        rows = layer.rows.to(self.x.device)
        whole = len(rows) == len(self.picture)
        view = View(layer.pose, self.x, self.y)
        surface = layer.shape.surface(view)
        cover = surface.cover
        texels = layer.textures.shape[-1] * view.pixel / 2
        colour = sample(pyramid(layer.textures), surface.u, surface.v, texels.log2())
        if surface.light is not None and not self.flat:
            colour.mul_(shaded(surface.light)[:, None])
        below = self.picture if whole else self.picture[rows]
        if not self.flat and layer.shadow is not None:
            right, down = (round(part * self.short) for part in layer.shadow_at)
            below = below * (1 - layer.shadow.view(-1, 1, 1, 1) * cast_shadow(cover, right, down))[:, None]
        self._put("picture", rows, whole, torch.lerp(below, colour, cover[:, None]))
        self._see(layer, rows, whole, cover)
        if self.positions is not None:
            self._place(layer, rows, view, surface)

    def _see(self, layer: Layer, rows: Tensor, whole: bool, cover: Tensor) -> None:
        own = layer.role in ("hero", "part")
        visible, moving = (part if whole else part[rows] for part in (self.visible, self.moving))
        rest = 1 - cover
        self._put("visible", rows, whole, visible * rest + cover if own else visible * rest)
        self._put("moving", rows, whole, moving * rest + cover)

    def _place(self, layer: Layer, rows: Tensor, view: View, surface: object) -> None:
        x, y, seen = surface.start()
        there = torch.stack(view.screen(x, y), -1)
        there = torch.where(seen[..., None] & (layer.role == "hero"), there, math.nan)
        self.positions[rows] = torch.where(surface.cover[..., None] > 0.5, there, self.positions[rows])

    def _put(self, name: str, rows: Tensor, whole: bool, values: Tensor) -> None:
        if whole:
            setattr(self, name, values)
        else:
            getattr(self, name)[rows] = values


def _ground(scene: Scene, x: Tensor, y: Tensor, short: int) -> Tensor:
    """Draws the backgrounds, mirrored beyond their edges, ``[B, 3, F, H, W]``."""
    camera, half = scene.camera, scene.extent[:, None] / 2
    cos, sin = torch.cos(camera.roll) / camera.zoom / half, torch.sin(camera.roll) / camera.zoom / half

    def folded(across: Tensor, down: Tensor, rest: Tensor) -> Tensor:
        line = across[..., None, None] * x + (down[..., None, None] * y[:, None] + (rest / half)[..., None, None])
        return line.mul_(0.5).add_(0.5).remainder_(2).sub_(1).abs_().neg_().add_(1)

    u, v = folded(cos, -sin, camera.x), folded(sin, cos, camera.y)
    texels = scene.ground.pictures.shape[-1] / (scene.extent[:, None] * short / 2 * camera.zoom)
    return sample(pyramid(scene.ground.pictures), u, v, texels.log2())


@torch.no_grad()
def render(dice: Dice, scene: Scene, height: int, width: int, flat: bool = False, positions: bool = False) -> Rendered:
    """Draws a batch of scenes; the same scene and dice give the same bytes on the same device.

    Args:
        flat: leave out light, shadows, blur and grain: every surface shows its texture as it is.
        positions: also return where surfaces were in frame 0.
    """
    canvas = _Canvas(scene, height, width, flat, positions)
    for layer in scene.layers:
        canvas.draw(layer)
    picture = canvas.picture if flat else lens(dice, canvas.picture, scene.light, canvas.x, canvas.y)
    frames = picture.mul_(255).add_(0.5).clamp_(0, 255).to(torch.uint8)
    return Rendered(frames, canvas.visible, canvas.moving, canvas.positions)
