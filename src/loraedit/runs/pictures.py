"""Pictures of an edit for people: source, edit mask, result, and the course of the loss.

Nothing here feeds back into an edit. No picture depends on global state, and the same inputs give the same bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image as PilImage
from PIL import ImageDraw, ImageFont

from loraedit.errors import InputError, ShapeError
from loraedit.masks.tube import MaskTube
from loraedit.types import Footage, Image, Plane

__all__ = ["contact_sheet", "loss_curve", "moments", "overlay_mask", "running_mean", "side_by_side"]

OVERLAY_RGB = (230, 20, 200)
OVERLAY_STRENGTH = 0.45
PAPER_RGB = (255, 255, 255)
INK_RGB = (40, 40, 40)
GAP_PX = 6
SIDE_MAX_PX = 2048
TITLE_PX = 30
LABEL_PX = 22
GUTTER_PX = 84
FONT_PX = 15


def contact_sheet(
    source: Footage,
    result: Footage,
    edit_mask: MaskTube,
    *,
    title: str = "",
    columns: int = 6,
    tile_width: int = 200,
) -> PilImage.Image:
    """Lays a few moments of an edit out on one page.

    Rows: the source, the source with the edit mask laid over it, the result. Columns: evenly spaced frames, the
    first and the last among them, each with its number.

    Args:
        source: the clip.
        result: the edited clip.
        edit_mask: one plane for each frame, True = edited.
        title: one line at the top of the page.
        columns: maximum number of frames to show.
        tile_width: width of one picture on the page, in pixels.

    Raises:
        ShapeError: if the three do not have the same frames, height and width.
    """
    _require_same_frames(source, result)
    chosen = moments(len(source), columns)
    tile = (tile_width, max(1, round(tile_width * source.size.height / source.size.width)))
    page = _blank_page(len(chosen), 3, tile)
    _label_page(page, title, ["source", "edit mask", "result"], chosen, tile)
    for column, index in enumerate(chosen):
        (before,), (after,) = source.rgb(index, index + 1), result.rgb(index, index + 1)
        for row, frame in enumerate((before, overlay_mask(before, edit_mask[index]), after)):
            page.paste(_tile_picture(frame, tile), _tile_corner(row, column, tile))
    return page


def overlay_mask(frame: Image, edit_mask: Plane) -> Image:
    """Tints the region that may change.

    Args:
        frame: ``[H, W, 3]`` uint8.
        edit_mask: ``[H, W]`` bool, True = edited.

    Returns:
        ``[H, W, 3]`` uint8; outside the mask it is unchanged.

    Raises:
        ShapeError: if frame and mask do not fit together.
    """
    if frame.shape[:2] != edit_mask.shape:
        raise ShapeError(
            f"A mask must have the height and width of its clip: "
            f"the clip is {list(frame.shape[:2])}, the mask {list(edit_mask.shape)}."
        )
    tinted = frame.copy()
    tinted[edit_mask] = _tint(frame[edit_mask])
    return tinted


def _tint(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Moves ``[N, 3]`` uint8 RGB pixels towards the overlay's colour."""
    below, colour = pixels.astype(np.float32), np.array(OVERLAY_RGB, np.float32)
    return np.rint(below + np.float32(OVERLAY_STRENGTH) * (colour - below)).astype(np.uint8)


def side_by_side(source: Image, result: Image, *, gap_px: int = 8) -> Image:
    """Joins two frames, the source on the left and the result on the right of a white gap.

    Large frames are reduced first, to a size that players show and H.264 can encode.

    Args:
        source: ``[H, W, 3]`` uint8.
        result: ``[H, W, 3]`` uint8.
        gap_px: width of the gap.

    Returns:
        ``[h, 2 * w + gap_px, 3]`` uint8; ``h`` and ``w`` are ``H`` and ``W`` if neither is over ``SIDE_MAX_PX``.

    Raises:
        ShapeError: if the two differ in height or width.
    """
    if source.shape != result.shape:
        raise ShapeError(
            f"Source and result must have the same height and width: "
            f"the source is {list(source.shape)}, the result {list(result.shape)}."
        )
    share = SIDE_MAX_PX / max(source.shape[:2])
    if share < 1:
        size = max(1, round(source.shape[1] * share)), max(1, round(source.shape[0] * share))
        source, result = (
            np.asarray(cv2.resize(each, size, interpolation=cv2.INTER_AREA), np.uint8) for each in (source, result)
        )
    return np.concatenate([source, np.full((len(source), gap_px, 3), 255, np.uint8), result], axis=1)


def loss_curve(path: Path, steps: Sequence[int], losses: Sequence[float]) -> None:
    """Writes a PNG of the training loss: each step in a light colour, its running mean on top.

    Args:
        path: where to write; the same numbers give the same bytes.
        steps: the optimiser steps, rising.
        losses: one loss per step.

    Raises:
        InputError: if there is nothing to draw.
        ShapeError: if steps and losses differ in length.
    """
    if len(steps) != len(losses):
        raise ShapeError(f"A loss curve needs one loss per step: got {len(steps)} steps and {len(losses)} losses.")
    if not losses:
        raise InputError("A loss curve needs at least one step: got none.")
    figure = Figure(figsize=(7, 3.5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.plot(steps, losses, color="tab:blue", alpha=0.3, linewidth=1, label="each step")
    axes.plot(steps, running_mean(losses), color="tab:blue", linewidth=2, label="running mean")
    axes.set_xlabel("training step")
    axes.set_ylabel("flow-matching loss")
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    figure.savefig(path, format="png", metadata={"Software": None})


def running_mean(values: Sequence[float], window: int | None = None) -> npt.NDArray[np.float64]:
    """Computes a centred running mean; at the ends, over the values that exist.

    Args:
        values: the numbers, in order.
        window: number of values to average; a tenth of them if None.

    Returns:
        float64, as long as ``values``.
    """
    series = np.asarray(values, dtype=np.float64)
    half = (len(series) // 10 if window is None else window) // 2
    sums = np.concatenate([[0.0], np.cumsum(series)])
    index = np.arange(len(series))
    low, high = np.maximum(index - half, 0), np.minimum(index + half + 1, len(series))
    mean: npt.NDArray[np.float64] = (sums[high] - sums[low]) / (high - low)
    return mean


def moments(frame_count: int, columns: int) -> list[int]:
    """Returns evenly spaced frame numbers, the first and the last among them, each once.

    Args:
        frame_count: frames in the clip.
        columns: maximum number of frames.
    """
    return sorted({round(position) for position in np.linspace(0, frame_count - 1, columns).tolist()})


def _require_same_frames(source: Footage, result: Footage) -> None:
    if (len(source), source.size) != (len(result), result.size):
        raise ShapeError(
            f"Source and result must have the same frames, height and width: the source has {len(source)} frames of "
            f"{source.size}, the result {len(result)} of {result.size}."
        )


def _tile_corner(row: int, column: int, tile: tuple[int, int]) -> tuple[int, int]:
    """Returns left and top of a tile on the page; for one past the last tile, the page's width and height."""
    left = GUTTER_PX + column * (tile[0] + GAP_PX)
    top = TITLE_PX + LABEL_PX + row * (tile[1] + GAP_PX)
    return left, top


def _blank_page(columns: int, rows: int, tile: tuple[int, int]) -> PilImage.Image:
    return PilImage.new("RGB", _tile_corner(rows, columns, tile), PAPER_RGB)


def _label_page(
    page: PilImage.Image, title: str, row_names: list[str], frame_numbers: list[int], tile: tuple[int, int]
) -> None:
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(FONT_PX)
    draw.text((GAP_PX, TITLE_PX // 2), title, fill=INK_RGB, font=font, anchor="lm")
    for column, number in enumerate(frame_numbers):
        left, top = _tile_corner(0, column, tile)
        draw.text((left, top - LABEL_PX // 2), f"frame {number}", fill=INK_RGB, font=font, anchor="lm")
    for row, name in enumerate(row_names):
        _, top = _tile_corner(row, 0, tile)
        draw.text((GAP_PX, top + tile[1] // 2), name, fill=INK_RGB, font=font, anchor="lm")


def _tile_picture(frame: Image, tile: tuple[int, int]) -> PilImage.Image:
    return PilImage.fromarray(frame).resize(tile, PilImage.Resampling.BICUBIC)
