"""Textures with all their sizes side by side, so that a pixel is read at the size at which it is seen."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["LEVELS", "pyramid", "sample"]

LEVELS = 4


def pyramid(texture: Tensor) -> Tensor:
    """Packs ``[n, 3, S, S]`` and its halvings into ``[n, 3, S, 3 S / 2]``, the smaller ones beside the whole."""
    side = texture.shape[-1]
    packed = texture.new_zeros((*texture.shape[:2], side, side * 3 // 2))
    packed[..., :side] = texture
    top, small = 0, texture
    for _ in range(1, LEVELS):
        small = (small[..., ::2, ::2] + small[..., 1::2, ::2] + small[..., ::2, 1::2] + small[..., 1::2, 1::2]) / 4
        half = small.shape[-1]
        packed[..., top : top + half, side : side + half] = small
        top += half
    return packed


def sample(packed: Tensor, u: Tensor, v: Tensor, level: Tensor) -> Tensor:
    """Reads textures at places ``[n, F, H, W]`` in [0, 1].

    Args:
        packed: of :func:`pyramid`.
        u: from left to right.
        v: from top to bottom.
        level: 0 reads the whole texture, 1 its half; between two both are read; ``[n, F]``.

    Returns:
        ``[n, 3, F, H, W]``.
    """
    level = level.clamp(0, LEVELS - 1.001)
    low = level.floor()
    share = (level - low)[:, None, :, None, None]
    place = torch.stack([u, v], -1)
    fine, coarse = (_read(packed, place, step) for step in (low, low + 1))
    return fine.lerp_(coarse, share)


def _read(packed: Tensor, place: Tensor, level: Tensor) -> Tensor:
    """Reads one level, each frame its own, at places ``[n, F, H, W, 2]``."""
    side, wide = packed.shape[-2:]
    size = side * 0.5**level
    left = torch.where(level > 0, float(side), 0.0)
    top = torch.where(level > 0, side - 2 * size, torch.zeros_like(size))
    extent = torch.tensor([2 / wide, 2 / side], device=packed.device)
    # grid_sample with align_corners=False has pixel p at (2 p + 1) / extent - 1
    scale = (size - 1)[..., None] * extent
    first = (torch.stack([left, top], -1) + 0.5) * extent - 1
    grid = torch.addcmul(first[:, :, None, None], place, scale[:, :, None, None])
    n, frames, height, width, _ = grid.shape
    read = F.grid_sample(packed, grid.view(n, frames * height, width, 2), align_corners=False)
    return read.view(n, 3, frames, height, width)
