"""Clips as the stages of training take them: rendered in batches on the device, by a key alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from pretrain.config import VaePlan
from pretrain.photos import load_photos
from pretrain.render.captions import captions
from pretrain.render.compose import Rendered, render
from pretrain.render.dice import Dice
from pretrain.render.scene import Mix, Studio, draw_scene

__all__ = ["Source", "VaeBatches", "crops_round", "grey_holes", "vae_clips"]

PHOTOS_ONLY = Mix(camera=1.0, ground_photo=1.0, hero=0.0, behind=0.0, before=0.0, part=0.0)
GROUPS = {"cpu": 32, "accelerator": 512}
"""Clips of 64 x 64 x 17 that are drawn in one go: many enough that the calls cost little, few enough for memory."""


@dataclass(frozen=True)
class Source:
    """Draws clips on a device.

    Attributes:
        photos: uint8 ``[N, 3, P, P]`` on the device.
    """

    device: torch.device
    photos: Tensor

    @classmethod
    def open(cls, device: torch.device, photos: Path) -> Source:
        """Returns a source with the photographs of a file, as :func:`pretrain.photos.load_photos` has them."""
        return cls(device, load_photos(photos).to(device))

    def on(self, device: torch.device) -> Source:
        """Returns the same on another device."""
        return Source(device, self.photos.to(device))

    def clips(
        self, key: tuple[int, ...], count: int, frames: int, height: int, width: int, mix: Mix | None = None
    ) -> tuple[Rendered, list[str]]:
        """Draws clips and their captions; they depend on the key, the sizes and the kind of device alone."""
        group = GROUPS["cpu" if self.device.type == "cpu" else "accelerator"]
        group = max(1, round(group * 17 * 64 * 64 / (frames * height * width)))
        drawn, words = [], []
        for start in range(0, count, group):
            dice = Dice(self.device, *key, start)
            studio = Studio(dice, self.photos, mix or Mix(), frames, height, width)
            scene = draw_scene(studio, min(group, count - start))
            drawn.append(render(dice, scene, height, width))
            words += captions(scene)
        return Rendered(*(torch.cat([getattr(part, name) for part in drawn]) for name in _FIELDS), None), words


_FIELDS = ("frames", "visible", "moving")


class VaeBatches:
    """What the VAE trains on, step by step; several batches are drawn in one go.

    Args:
        key: tells one phase of training from another.
        crops: share of the batches that are crops.
    """

    def __init__(self, source: Source, key: tuple[int, ...], plan: VaePlan, crops: float) -> None:
        self.source, self.key, self.plan, self.crops = source, key, plan, crops
        self._drawn: dict[bool, tuple[int, Tensor]] = {}

    def batch(self, step: int) -> Tensor:
        """Returns the clips of a step, float32 ``[B, 3, F, H, W]`` in [-1, 1]; they depend on key and step alone."""
        before, after = int(step * self.crops), int((step + 1) * self.crops)
        cropped, at_once = after > before, self.plan.drawn.on(self.source.device)
        number, place = divmod(before if cropped else step - before, at_once)
        held = self._drawn.get(cropped)
        if held is None or held[0] != number:
            count = at_once * self.plan.batch.on(self.source.device)
            drawn = vae_clips(self.source, (*self.key, cropped, number), self.plan, cropped, count)
            held = self._drawn[cropped] = number, drawn
        return held[1][place::at_once]


def vae_clips(source: Source, key: tuple[int, ...], plan: VaePlan, cropped: bool, count: int) -> Tensor:
    """Returns scenes, and photographs under moving cameras; some have grey holes, as an edit's conditions have.

    Args:
        cropped: return three crops of nine frames from each clip, most of them round an object.
    """
    frames, side = plan.frames, plan.side
    if cropped:
        frames, side = (plan.frames + 1) // 2, side * 3 // 2
    scenes = count - round(count * plan.photo_share)
    drawn = [source.clips((*key, 0), scenes, frames, side, side)[0]]
    if scenes < count:
        drawn.append(source.clips((*key, 1), count - scenes, frames, side, side, PHOTOS_ONLY)[0])
    dice = Dice(source.device, *key, 2)
    pixels = torch.cat([part.pixels for part in drawn])
    if cropped:
        visible = torch.cat([part.visible for part in drawn])
        pixels = torch.stack([crops_round(dice, pixels, visible, plan.crop) for _ in range(3)], 1).flatten(0, 1)
    return grey_holes(dice, pixels, plan.hole_share)


def crops_round(dice: Dice, pixels: Tensor, visible: Tensor, side: int) -> Tensor:
    """Cuts one square of each clip: round a place on its object, or anywhere if there is none."""
    count, height, width = len(pixels), *pixels.shape[-2:]
    chance = visible.amax(1).flatten(1) + 1e-4
    centre = torch.multinomial(chance, 1, generator=dice.generator)[:, 0]
    top = (centre // width - side // 2).clamp(0, height - side)
    left = (centre % width - side // 2).clamp(0, width - side)
    line = torch.arange(side, device=pixels.device)
    rows, columns = (top[:, None] + line)[:, :, None], (left[:, None] + line)[:, None]
    clips = torch.arange(count, device=pixels.device)[:, None, None]
    return pixels.permute(0, 3, 4, 1, 2)[clips, rows, columns].permute(0, 3, 4, 1, 2).contiguous()


def grey_holes(dice: Dice, pixels: Tensor, share: float) -> Tensor:
    """Turns a moving box grey in some clips, and in a third of these everything after the first frame."""
    count, _, frames, height, width = pixels.shape
    time = torch.arange(frames, device=dice.device)
    hollow, rest = dice.some(share, count) > 0, dice.some(0.3, count) > 0
    first = dice.some(0.5, count)[:, None]

    def inside(extent: int) -> Tensor:
        size = dice.uniform(0.2, 0.8, count, 1) * extent
        start = dice.uniform(0, 1, count, 1) * (extent - size) + dice.uniform(-0.02, 0.02, count, 1) * extent * time
        line = torch.arange(extent, device=dice.device)
        return (line >= start[..., None]) & (line < (start + size)[..., None])

    box = inside(height)[..., :, None] & inside(width)[..., None, :] & (time >= first)[..., None, None]
    later = (time > 0)[None, :, None, None].expand_as(box)
    hole = torch.where(rest[:, None, None, None], later, box) & hollow[:, None, None, None]
    return pixels.masked_fill(hole[:, None], 0.0)
