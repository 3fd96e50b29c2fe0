"""Converts between pixels as files store them (bit depth, opacity) and FFmpeg's frames.

Channels of more than 8 bits are uint16 from 0 to 65535 at any depth: below its own bits a value repeats its leading
ones (10 bits ``abcdefghij`` become ``abcdefghij abcdef``), so black stays 0 and white is 65535.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from loraedit.types import Colour, Image, Stored
from loraedit.video.facts import BT709, colour_of

__all__ = [
    "BICUBIC_EXACT",
    "Layout",
    "conform",
    "layout_of",
    "narrow",
    "stored_pixels",
    "to_rgb",
    "widen",
    "yuv_frame",
]

BICUBIC_EXACT = 0x4 | 0x2000 | 0x4000 | 0x40000 | 0x80000  # swscale: full chroma in and out, exact rounding, bitexact
_DEPTHS = (8, 10, 12, 16)
# Weights of red and blue in luma, by matrix.
_WEIGHTS = {1: (0.2126, 0.0722), 4: (0.30, 0.11), 5: (0.299, 0.114), 6: (0.299, 0.114), 7: (0.212, 0.087),
            9: (0.2627, 0.0593), 10: (0.2627, 0.0593)}  # fmt: skip


class Layout(NamedTuple):
    """Describes a stored pixel.

    Attributes:
        depth: bits of a channel: 8, 10, 12 or 16.
        alpha: True if there is a fourth channel, opacity.
    """

    depth: int
    alpha: bool


def widen(values: Stored, depth: int) -> Stored:
    """Widens values of ``depth`` bits in uint16, any shape, to 0 to 65535; :func:`narrow` is the inverse."""
    if depth == 16:
        return values
    return (values << np.uint16(16 - depth)) | (values >> np.uint16(2 * depth - 16))


def narrow(values: Stored, depth: int) -> Stored:
    """Rounds values from 0 to 65535, any shape, to the nearest of ``depth`` bits: ``v (2^depth - 1) / 65535``."""
    if depth == 16:
        return values
    scaled = values.astype(np.uint32) * np.uint32((1 << depth) - 1) + np.uint32(1 << 15)
    return ((scaled + (scaled >> 16)) >> 16).astype(np.uint16)


def to_rgb(pixels: Stored) -> Image:
    """Converts to uint8 ``[H, W, 3]`` as people and models see it: without opacity, rounded to 8 bits."""
    colours = pixels[..., :3]
    if colours.dtype == np.uint16:
        colours = narrow(colours, 8).astype(np.uint8)
    return np.ascontiguousarray(colours, dtype=np.uint8)


def conform(pixels: Stored, layout: Layout) -> Stored:
    """Converts pixels to the channels and the type of a layout: new opacity is opaque, lost bits are rounded."""
    if layout.depth > 8 and pixels.dtype == np.uint8:
        pixels = pixels.astype(np.uint16) * np.uint16(257)
    elif layout.depth == 8 and pixels.dtype == np.uint16:
        pixels = narrow(pixels, 8).astype(np.uint8)
    if layout.alpha and pixels.shape[-1] == 3:
        opaque = np.full((*pixels.shape[:2], 1), np.iinfo(pixels.dtype).max, pixels.dtype)
        pixels = np.concatenate([pixels, opaque], axis=-1)
    return np.ascontiguousarray(pixels[..., : 4 if layout.alpha else 3])


def layout_of(frame: VideoFrame, codec: str) -> Layout:
    """Returns the layout that holds all of a decoded frame; the transparent colour of a GIF only avoids repetition."""
    components = frame.format.components
    bits = max((component.bits for component in components), default=8)
    depth = next((depth for depth in _DEPTHS if depth >= bits), _DEPTHS[-1])
    return Layout(depth, codec != "gif" and any(component.is_alpha for component in components))


def stored_pixels(frame: VideoFrame, layout: Layout, reformatter: VideoReformatter) -> Stored:
    """Returns a decoded frame as RGB, with opacity if the layout has it, converted by its tags; not turned yet."""
    if layout.depth > 8:
        return _deep_pixels(frame, layout, reformatter)
    matrix = None if frame.format.is_rgb else colour_of(frame).matrix
    rgb = reformatter.reformat(
        frame, format="rgba" if layout.alpha else "rgb24", src_colorspace=matrix, interpolation=BICUBIC_EXACT
    )
    return _array(rgb)


def _deep_pixels(frame: VideoFrame, layout: Layout, reformatter: VideoReformatter) -> Stored:
    """Converts a deep frame. swscale only upsamples the chroma: it would map 10-bit white to 1020 of 1023."""
    a = "a" if layout.alpha else ""
    if not frame.format.is_rgb and len(frame.format.components) > 2 and not frame.format.name.startswith("xyz"):
        yuv = reformatter.reformat(frame, format=f"yuv{a}444p16le", interpolation=BICUBIC_EXACT)
        rgb = np.asarray(cv2.transform(_array(yuv), _yuv_to_rgb(colour_of(frame), layout)), np.uint16)
        return widen(narrow(rgb, layout.depth), layout.depth)
    pixels = f"gbr{a}p{layout.depth}le"
    return widen(_array(reformatter.reformat(frame, format=pixels, interpolation=BICUBIC_EXACT)), layout.depth)


def yuv_frame(pixels: Stored, colour: Colour, layout: Layout) -> VideoFrame:
    """Converts RGB or RGBA from 0 to 65535 to 16-bit YUV with full-size chroma; a codec keeps its leading bits.

    Args:
        pixels: uint16 ``[H, W, 3]`` or, if the layout has opacity, ``[H, W, 4]``.
        colour: how to code RGB.
        layout: the depth and opacity that the codec keeps.
    """
    coded = np.asarray(cv2.transform(pixels, np.linalg.inv(_homogeneous(_yuv_to_rgb(colour, layout)))[:-1]), np.uint16)
    return VideoFrame.from_ndarray(coded, format=f"yuv{'a' if layout.alpha else ''}444p16le", channel_last=True)


def _yuv_to_rgb(colour: Colour, layout: Layout) -> NDArray[np.float64]:
    """Returns the affine map from YUV (``layout.depth`` leading bits of 16) to RGB, 0 to 65535; opacity is unchanged.

    Returns:
        ``[3, 4]``, with opacity ``[4, 5]``; the last column is added.
    """
    red, blue = _WEIGHTS.get(colour.matrix, _WEIGHTS[BT709.matrix])
    green = 1 - red - blue
    matrix = np.array([
        [1, 0, 2 * (1 - red)],
        [1, -2 * blue * (1 - blue) / green, -2 * red * (1 - red) / green],
        [1, 2 * (1 - blue), 0],
    ])  # fmt: skip
    step = 1 << (layout.depth - 8)
    black, luma, chroma = (
        (0, 256 * step - 1, 256 * step - 1) if colour.full_range else (16 * step, 219 * step, 224 * step)
    )
    matrix = matrix / (luma, chroma, chroma) * 65535
    shift = -matrix @ (black, 128 * step, 128 * step)
    whole = np.eye(4 + layout.alpha)[: 3 + layout.alpha]
    whole[:3, :3], whole[:3, -1] = matrix / (1 << (16 - layout.depth)), shift
    return whole


def _homogeneous(affine: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.vstack([affine, np.eye(affine.shape[1])[-1]])


def _array(frame: VideoFrame) -> Stored:
    values: Stored = frame.to_ndarray(channel_last=True)  # type: ignore[assignment]  # never floating-point
    return values
