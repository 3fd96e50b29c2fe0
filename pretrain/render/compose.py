"""Draws scenes: background, layers from back to front, then light and lens."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pretrain.render.atlas import pyramid, sample
from pretrain.render.dice import Dice
from pretrain.render.lighting import SHADOW_BLOCK, cast_shadow, lens, shaded
from pretrain.render.motion import View
from pretrain.render.scene import Layer, Scene
from pretrain.render.shape import Surface

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
        window = self._window(layer)
        if window is None:
            return
        part, rows = (..., *window), layer.rows.to(self.x.device)
        view = View(layer.pose, self.x, self.y, window)
        surface = layer.shape.surface(view)
        cover = surface.cover
        texels = layer.textures.shape[-1] * view.pixel / 2
        colour = sample(pyramid(layer.textures), surface.u, surface.v, texels.log2())
        if surface.light is not None and not self.flat:
            colour.mul_(shaded(surface.light)[:, None])
        below = self.picture[part][rows]
        if not self.flat and layer.shadow is not None:
            right, down = self._shadow_px(layer)
            below.mul_((1 - layer.shadow.view(-1, 1, 1, 1) * cast_shadow(cover, right, down))[:, None])
        self.picture[part][rows] = below.lerp_(colour, cover[:, None])
        rest, own = 1 - cover, cover if layer.role in ("hero", "part") else 0.0
        self.visible[part][rows] = self.visible[part][rows] * rest + own
        self.moving[part][rows] = self.moving[part][rows] * rest + cover
        if self.positions is not None:
            self._place(layer, view, surface, self.positions[:, :, window[0], window[1]])

    def _shadow_px(self, layer: Layer) -> tuple[int, int]:
        right, down = (round(share * self.short) for share in layer.shadow_at)
        return right, down

    def _window(self, layer: Layer) -> tuple[slice, slice] | None:
        """Returns the rows and columns that a layer and its shadow touch in any frame, or None if there are none.

        Only a CPU gains from it. An accelerator would have to wait for the numbers, and gets the whole frame.
        """
        tall, wide = len(self.y), len(self.x)
        if self.x.device.type != "cpu":
            return slice(0, tall), slice(0, wide)
        reach, slices = layer.pose.scale * layer.shape.reach()[:, None], []
        shadow = self._shadow_px(layer) if layer.shadow is not None else (0, 0)
        for centre, line, shift in ((layer.pose.y, self.y, shadow[1]), (layer.pose.x, self.x, shadow[0])):
            ends = torch.stack([(centre - reach).min(), (centre + reach).max()])
            low, high = ((ends - line[0]) * (self.short / 2)).tolist()
            first = max(0, math.floor(low) - 4 - max(0, -shift)) // SHADOW_BLOCK * SHADOW_BLOCK
            last = min(len(line), -(-(math.ceil(high) + 4 + max(0, shift)) // SHADOW_BLOCK) * SHADOW_BLOCK)
            if last - first < SHADOW_BLOCK:
                return None
            slices.append(slice(first, last))
        return slices[0], slices[1]

    def _place(self, layer: Layer, view: View, surface: Surface, positions: Tensor) -> None:
        """Notes where the first object's surfaces were, and forgets what others hide."""
        x, y, seen = surface.start()
        there = torch.stack(view.screen(x, y), -1)
        there = torch.where(seen[..., None] & (layer.role == "hero"), there, math.nan)
        rows = layer.rows.to(positions.device)
        positions[rows] = torch.where(surface.cover[..., None] > 0.5, there, positions[rows])


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
