"""Pixels as files keep them: bits a channel has, opacity, and how they go from and to FFmpeg's frames.

Channels of more than 8 bits are uint16 that goes from 0 to 65535 at any depth: below its own bits a value repeats the
leading ones (10 bits ``abcdefghij`` are ``abcdefghij abcdef``), so black stays 0 and white is 65535.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter

from loraedit.types import Image, Stored
from loraedit.video.facts import colour_of

__all__ = ["BICUBIC_EXACT", "Layout", "conform", "layout_of", "narrow", "stored_pixels", "to_rgb", "widen"]

BICUBIC_EXACT = 0x4 | 0x2000 | 0x4000 | 0x40000 | 0x80000  # swscale: full chroma in and out, exact rounding, bitexact
_DEPTHS = (8, 10, 12, 16)


class Layout(NamedTuple):
    """What a pixel is made of.

    Attributes:
        depth: bits of a channel: 8, 10, 12 or 16.
        alpha: whether there is a fourth channel, opacity.
    """

    depth: int
    alpha: bool


def widen(values: Stored, depth: int) -> Stored:
    """Values of ``depth`` bits in uint16, any shape, to 0 to 65535; :func:`narrow` is its inverse."""
    if depth == 16:
        return values
    return (values << np.uint16(16 - depth)) | (values >> np.uint16(2 * depth - 16))


def narrow(values: Stored, depth: int) -> Stored:
    """Values from 0 to 65535, any shape, to the nearest of ``depth`` bits: ``v (2^depth - 1) / 65535``, rounded."""
    if depth == 16:
        return values
    scaled = values.astype(np.uint32) * np.uint32((1 << depth) - 1) + np.uint32(1 << 15)
    return ((scaled + (scaled >> 16)) >> 16).astype(np.uint16)


def to_rgb(pixels: Stored) -> Image:
    """What people and models see, uint8 ``[H, W, 3]``: opacity is dropped, deeper channels are rounded to 8 bits."""
    colours = pixels[..., :3]
    if colours.dtype == np.uint16:
        colours = narrow(colours, 8).astype(np.uint8)
    return np.ascontiguousarray(colours, dtype=np.uint8)


def conform(pixels: Stored, layout: Layout) -> Stored:
    """Pixels with the channels and the type of a layout; opaque where opacity is added, rounded where bits are lost."""
    if layout.depth > 8 and pixels.dtype == np.uint8:
        pixels = pixels.astype(np.uint16) * np.uint16(257)
    elif layout.depth == 8 and pixels.dtype == np.uint16:
        pixels = narrow(pixels, 8).astype(np.uint8)
    if layout.alpha and pixels.shape[-1] == 3:
        opaque = np.full((*pixels.shape[:2], 1), np.iinfo(pixels.dtype).max, pixels.dtype)
        pixels = np.concatenate([pixels, opaque], axis=-1)
    return np.ascontiguousarray(pixels[..., : 4 if layout.alpha else 3])


def layout_of(frame: VideoFrame, codec: str) -> Layout:
    """The layout that holds all of a decoded frame; a GIF's one transparent colour only spares it repetition."""
    components = frame.format.components
    bits = max((component.bits for component in components), default=8)
    depth = next((depth for depth in _DEPTHS if depth >= bits), _DEPTHS[-1])
    return Layout(depth, codec != "gif" and any(component.is_alpha for component in components))


def stored_pixels(frame: VideoFrame, layout: Layout, reformatter: VideoReformatter) -> Stored:
    """A decoded frame as RGB, with opacity if the layout has it, converted as it is tagged; not turned yet."""
    if layout.depth == 8:
        pixels = "rgba" if layout.alpha else "rgb24"
    else:
        pixels = f"gbr{'a' if layout.alpha else ''}p{layout.depth}le"
    matrix = None if frame.format.is_rgb else colour_of(frame).matrix
    rgb: Stored = reformatter.reformat(
        frame, format=pixels, src_colorspace=matrix, interpolation=BICUBIC_EXACT
    ).to_ndarray()  # type: ignore[assignment]  # never floating-point
    return widen(rgb, layout.depth) if layout.depth > 8 else rgb
