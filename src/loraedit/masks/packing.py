"""Packs masks in the layouts that models read, 1 = keep."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from loraedit.errors import ShapeError
from loraedit.masks.shaping import resize_mask
from loraedit.types import Mask, Size
from loraedit.video.scaling import resize_weights

__all__ = ["pack_keep_mask", "pack_shares", "pack_token_mask"]

_Plane = NDArray[np.uint8]
_Value = TypeVar("_Value", bound=np.generic)


def pack_keep_mask(edit_mask: Mask, latent_height: int, latent_width: int, temporal_factor: int) -> NDArray[np.float32]:
    """Packs an edit mask as the keep mask of a channel-mask model: 1 = keep, 0 = generate, at latent size.

    The layout is that of Wan image-to-video models: frame 1 is repeated ``temporal_factor`` (tf) times, so that the
    time axis has tf * f entries; each latent frame then carries tf channels, one for each of its pixel frames.

    A latent cell is generated if any of its pixels is edited. The reference implementation takes the nearest pixel
    instead. Both are equal for whole-frame masks, but the nearest pixel can keep a cell that is partly edited, and can
    lose a thin region.

    Args:
        edit_mask: ``[F, H, W]`` bool, True = regenerate, F = tf * n + 1.
        latent_height: h.
        latent_width: w.
        temporal_factor: tf, pixel frames per latent frame.

    Returns:
        ``[tf, f, h, w]`` float32, 1 = keep, with f = n + 1.

    Raises:
        ShapeError: F is not tf * n + 1.
    """
    frames = int(edit_mask.shape[0])
    if frames < 1 or (frames - 1) % temporal_factor:
        raise ShapeError(
            f"A mask of {frames} frames cannot be packed. Expected {temporal_factor}n + 1 frames; pad or cut the clip."
        )
    keep = ~resize_mask(edit_mask, Size(latent_height, latent_width))
    keep = np.concatenate([np.repeat(keep[:1], temporal_factor, axis=0), keep[1:]])
    packed = keep.reshape(-1, temporal_factor, latent_height, latent_width).swapaxes(0, 1)
    return packed.astype(np.float32, order="C")


def pack_shares(pixels: Mask, latent_height: int, latent_width: int, temporal_factor: int) -> NDArray[np.float32]:
    """Returns the share of a latent cell's pixels that a mask marks, ``[1, f, h, w]`` float32 in [0, 1].

    Args:
        pixels: ``[F, H, W]`` bool, F = tf * n + 1; frame 1 has latent cells of its own.
        latent_height: h.
        latent_width: w.
        temporal_factor: tf, pixel frames per latent frame.
    """
    planes = resize_weights(pixels.astype(np.float32), Size(latent_height, latent_width))
    later = planes[1:].reshape(-1, temporal_factor, latent_height, latent_width).mean(1)
    return np.concatenate([planes[:1], later])[None]


def pack_token_mask(
    edit_mask: Mask, latent_height: int, latent_width: int, temporal_factor: int, patch: int
) -> NDArray[np.float32]:
    """Packs an edit mask as the keep mask of a model with one timestep per token: 1 = keep, at latent size.

    A token is kept only if no pixel of its cells is edited in any pixel frame of its latent frame.

    Args:
        edit_mask: ``[F, H, W]`` bool, True = regenerate, F = tf * n + 1.
        latent_height: h, a multiple of ``patch``.
        latent_width: w, a multiple of ``patch``.
        temporal_factor: tf, pixel frames per latent frame.
        patch: latent cells per side of a token.

    Returns:
        ``[1, f, h, w]`` float32, constant within each token.

    Raises:
        ShapeError: F is not tf * n + 1.
    """
    rows, columns = latent_height // patch, latent_width // patch
    keep = pack_keep_mask(edit_mask, rows, columns, temporal_factor).min(0, keepdims=True)
    return np.repeat(np.repeat(keep, patch, axis=2), patch, axis=3)
