"""Masks packed as a model reads them, 1 = keep."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from loraedit.errors import ShapeError
from loraedit.masks.shaping import resize_mask
from loraedit.types import Mask, Size

__all__ = ["pack_keep_mask", "pack_token_mask"]

_Plane = NDArray[np.uint8]
_Value = TypeVar("_Value", bound=np.generic)


def pack_keep_mask(edit_mask: Mask, latent_height: int, latent_width: int, temporal_factor: int) -> NDArray[np.float32]:
    """Turn an edit mask into the keep mask of a channel-mask model: 1 = keep, 0 = generate, at latent size.

    Packed as in Wan image-to-video models: frame 1 is repeated ``temporal_factor`` (tf) times, so that the time axis
    has tf * f entries; each latent frame then carries tf channels, one for each of its pixel frames.

    In space, a latent cell is to be generated if any of its pixels is. The reference takes the nearest pixel instead,
    which is the same for whole-frame masks, but at a border can tell the model to keep a cell that is partly edited,
    and can lose a thin region.

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


def pack_token_mask(
    edit_mask: Mask, latent_height: int, latent_width: int, temporal_factor: int, patch: int
) -> NDArray[np.float32]:
    """Turn an edit mask into the keep mask of a model with one timestep a token: 1 = keep, at latent size.

    A token is kept only if nothing in it is edited: no pixel of its cells, in none of its latent frame's pixel frames.

    Args:
        edit_mask: ``[F, H, W]`` bool, True = regenerate, F = tf * n + 1.
        latent_height: h, a multiple of ``patch``.
        latent_width: w, the same.
        temporal_factor: tf, pixel frames per latent frame.
        patch: latent cells of a token, per side.

    Returns:
        ``[1, f, h, w]`` float32, constant in each token.

    Raises:
        ShapeError: F is not tf * n + 1.
    """
    rows, columns = latent_height // patch, latent_width // patch
    keep = pack_keep_mask(edit_mask, rows, columns, temporal_factor).min(0, keepdims=True)
    return np.repeat(np.repeat(keep, patch, axis=2), patch, axis=3)
