"""Lays generated pixels over the source; outside the mask the source stays unchanged."""

from __future__ import annotations

from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from loraedit.errors import ShapeError
from loraedit.types import Frames, Image, Stored, Weights

__all__ = ["composite", "lay_over", "restore_detail"]

DISAGREEMENT = 32.0
"""Difference in grey levels between generated and seen pixels at which the weight of the carried ones is 1 / e."""

LIGHT_RAMP = (6.0, 10.0)
"""Grey levels, the mean of the channels, by which generated pixels differ from the seen ones over a window: up to the
first, that is the model's imprecision; from the second on, the model changed the light, and nothing is restored."""

LIGHT_SIGMA_PX = 8.0
"""Standard deviation of the window in which light is compared; finer differences are detail."""

_Value = TypeVar("_Value", bound=np.generic)


def restore_detail(generated: Frames, carried: Frames, seen: Frames, trust: Weights) -> Frames:
    """Restores the detail that generated frames lost through the model's size and its VAE.

    The carried frames are known twice: in full, and as the model saw them, at its size and through its VAE. Where the
    model reproduced what it saw, the difference to the carried frames is only a loss of precision, so the carried
    pixels replace the generated ones, weighted by their trust. Where the model generated something else, or changed the
    light by more than a few grey levels, that stays::

        out = generated + w (carried - generated),   w = trust same_light exp(-(|generated - seen| / s)^2)

    Args:
        generated: uint8 ``[F, H, W, 3]``, at the source's size.
        carried: uint8, the frames from which the model's condition was made.
        seen: uint8, the condition after a pass through the VAE.
        trust: float32 ``[F, H, W]`` in [0, 1].
    """
    restored = np.empty_like(generated)
    for index, (frame, sharp, soft) in enumerate(zip(generated, carried, seen, strict=True)):
        pixels = frame.astype(np.float32)
        difference = pixels - soft
        size = cv2.GaussianBlur(np.abs(difference).mean(-1), (0, 0), 1.5)
        shift = np.abs(cv2.GaussianBlur(difference, (0, 0), LIGHT_SIGMA_PX)).mean(-1)
        weight = trust[index] * np.interp(shift, LIGHT_RAMP, (1, 0)) * np.exp(-np.square(size / DISAGREEMENT))
        restored[index] = np.rint(pixels + weight[..., None] * (sharp - pixels))
    return restored


def composite(source: Frames, generated: Frames, alpha: Weights) -> Frames:
    """Lays the generated frames over the source: ``source + alpha * (generated - source)``, rounded.

    Where alpha is 0, the source stays bit for bit; where it is 1, the generated pixel replaces it. Works frame by
    frame.

    Args:
        source: ``[F, H, W, 3]`` uint8.
        generated: ``[F, H, W, 3]`` uint8.
        alpha: ``[F, H, W]`` float32 in [0, 1], 1 = generated.

    Returns:
        ``[F, H, W, 3]`` uint8.

    Raises:
        ShapeError: frame counts, heights or widths differ.
    """
    assert source.dtype == generated.dtype == np.uint8
    if not source.shape == generated.shape == (*alpha.shape, 3):
        raise ShapeError(
            f"The source is {list(source.shape)}, the generated clip {list(generated.shape)} and the mask "
            f"{list(alpha.shape)}. Expected the same F, H and W."
        )
    blended = np.empty(source.shape, np.uint8)
    for index in range(len(source)):
        blended[index] = _blend(source[index], generated[index], alpha[index])
    return blended


def lay_over(stored: Stored, generated: Image, alpha: Weights, where: tuple[slice, slice]) -> Stored:
    """Lays generated pixels over a part of a stored frame, as :func:`composite` does.

    Args:
        stored: uint8 or uint16 ``[H, W, 3 or 4]``; opacity stays unchanged.
        generated: uint8 ``[h, w, 3]``.
        alpha: float32 ``[h, w]`` in [0, 1], 1 = generated.
        where: the rows and columns of the part.

    Returns:
        A new frame of the same type and shape.
    """
    laid: Stored = stored.copy()
    part = laid[where][..., :3]
    levels = generated.astype(np.float32) * (257 if stored.dtype == np.uint16 else 1)
    below = part.astype(np.float32)
    part[...] = np.rint(below + alpha[..., None] * (levels - below))
    return laid


def _blend(source: Image, generated: Image, alpha: NDArray[np.float32]) -> Image:
    assert bool(((alpha >= 0) & (alpha <= 1)).all())
    below, above = source.astype(np.float32), generated.astype(np.float32)
    return np.rint(below + alpha.astype(np.float32)[..., None] * (above - below)).astype(np.uint8)
