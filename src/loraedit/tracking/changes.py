"""What an edited frame changes: where it differs from the source's frame by more than an editor's noise.

An image editor gives back more than was asked for: compression, slightly other colours, a shift by a few pixels, fine
texture painted anew. So the two are registered, colours are fitted to each other, and a difference counts only if it
rises above what is usual in the frame for so much texture.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from loraedit.errors import InputError
from loraedit.optical_flow.fields import Field
from loraedit.tracking.regions import closed, filled, opened
from loraedit.types import Image, Plane

__all__ = ["changed_region", "name_of_frame", "registered"]

SIDE_PX = 400
"""Frames with a longer shorter side are compared at this one."""
REACH_PX = 4
"""The largest shift that is looked for, at the size of comparing."""
EVERYWHERE = 0.75
"""Share of changed pixels from which on an edit is one of the whole frame."""
RESTYLED = 18.0
"""Grey levels of usual difference from which on the whole frame is another one."""
SLIP = 0.03
"""Share of the plainest part's difference under which another part is taken for a slip of the editor."""
LEAST = 2.5
"""Grey levels up to which a difference never counts."""
STILL_SAME = 1.0
"""Grey levels up to which a pixel counts as untouched."""

_Floats = NDArray[np.float32]


def name_of_frame(index: int) -> str:
    """How messages name the edited frame of this index."""
    return f"The reference for frame {index}" if index else "The edited first frame"


def changed_region(source: Image, edited: Image, what: str = "The edited first frame") -> Plane:
    """Where an edited frame was edited.

    Args:
        source: uint8 ``[H, W, 3]``, the frame before the edit.
        edited: uint8 ``[H, W, 3]``, after it.
        what: how to name the edited frame in a message.

    Returns:
        bool ``[H, W]``, True = edited, without holes; some pixel is True.

    Raises:
        InputError: nothing differs, or nothing but noise, or nearly everything.
    """
    if np.array_equal(source, edited):
        raise InputError(f"{what} equals the source's frame. Edit it with an image editor first.")
    height, width = source.shape[:2]
    aligned, whole = registered(source, edited)
    before, after = _compared(source), _compared(aligned)
    small = _edited(before, _recoloured(before, after), whole, what)
    region = cv2.resize(small.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR) > 0.25
    return np.asarray(region)


def _edited(before: _Floats, after: _Floats, whole: bool, what: str) -> Plane:
    difference, texture = _difference(before, after)
    noise = _noise(difference, texture, whole)
    usual = float(np.median(noise))
    weak = difference > np.maximum(LEAST, 2.5 * noise + min(usual, 6.0))
    strong = difference > np.maximum(2 * LEAST, 4.0 * noise + 2 * min(usual, 6.0))
    side = min(difference.shape)
    region = _hysteresis(weak, strong & opened(weak, 1 if side > 64 else 0), least=max(4.0, 2e-4 * weak.size))
    region = _plain(region, difference)
    region = filled(closed(region, max(1, side // 60)))
    if usual > RESTYLED or region.mean() > EVERYWHERE:
        raise InputError(
            f"{what} differs from the source nearly everywhere, so no mask can be made from it. "
            "Edit a part of the frame only, or say with --mask where to edit, such as with a box x0,y0,x1,y1."
        )
    if not region.any():
        raise InputError(
            f"{what} differs from the source's frame by no more than noise. "
            "Edit it more plainly, or say with --mask where to edit."
        )
    return region


def _factor(image: Image | _Floats) -> float:
    return min(1.0, SIDE_PX / int(min(image.shape[:2])))


def _compared(image: Image | _Floats) -> _Floats:
    """An image at the size of comparing, float32."""
    factor = _factor(image)
    size = (max(round(image.shape[1] * factor), 1), max(round(image.shape[0] * factor), 1))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.float32)


def registered(before: Image, after: Image) -> tuple[Image | _Floats, bool]:
    """The second image, shifted to lie on the first.

    The shift is looked for at one textured point in each cell of a grid, most of which an edit leaves as they were:
    first at the size of comparing, then round it at the images' own size, where most shifts are by whole pixels. Where
    the second image has nothing to show after the shift, the first one shows.

    Args:
        before: uint8 ``[H, W, 3]``.
        after: uint8 ``[H, W, 3]``.

    Returns:
        The shifted image, 0 to 255, and whether the shift is one by whole pixels, which leaves every pixel as it was.
    """
    factor, place = _factor(before), (0, 0)
    if factor < 1:
        y, x, _ = _shift(_compared(before), _compared(after), place, REACH_PX)
        place = round(y / factor), round(x / factor)
    y, x, rest = _shift(before, after, place, REACH_PX if factor == 1 else int(np.ceil(1 / factor)))
    if not (y or x or any(rest)):
        return after, True
    shift = np.array([[1, 0, x + rest[1]], [0, 1, y + rest[0]]], np.float32)
    how, (height, width) = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, before.shape[:2]
    beneath = before.astype(np.float32)
    moved = cv2.warpAffine(
        after.astype(np.float32), shift, (width, height), beneath, flags=how, borderMode=cv2.BORDER_TRANSPARENT
    )
    return np.asarray(moved, np.float32), max(map(abs, rest)) < 0.05


def _shift(
    before: Image | _Floats, after: Image | _Floats, place: tuple[int, int], reach: int
) -> tuple[int, int, tuple[float, float]]:
    """The shift in y and x near a place in whole pixels, and the rest of it; 0 if none is plainly better than none."""
    none = 0, 0, (0.0, 0.0)
    one, other = (_fine(np.asarray(image, np.float32)) for image in (before, after))
    rows, columns = _landmarks(one, max(map(abs, place)) + reach + 1)
    if len(rows) < 16:
        return none
    ys, xs = (range(at - reach, at + reach + 1) for at in place)
    costs = np.array([[_cost(one, other, rows, columns, dy, dx) for dx in xs] for dy in ys])
    y, x = (int(index) for index in np.unravel_index(int(costs.argmin()), costs.shape))
    if costs[y, x] > 0.9 * _cost(one, other, rows, columns, 0, 0):
        return none
    return ys[y], xs[x], (_between(costs[:, x], y), _between(costs[y], x))


def _fine(image: _Floats) -> _Floats:
    """Grey without its slow part, so that other colours do not count, lightly smoothed."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    return np.asarray(cv2.GaussianBlur(grey, (0, 0), 0.8) - cv2.GaussianBlur(grey, (0, 0), 4.0), np.float32)


def _landmarks(fine: _Floats, rim: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows and columns of the most textured point in each cell of a grid, away from the frame's rim."""
    edges = np.hypot(cv2.Sobel(fine, cv2.CV_32F, 1, 0), cv2.Sobel(fine, cv2.CV_32F, 0, 1))
    height, width = fine.shape
    cell = max(4, min(height, width) // 24)
    points = []
    for top in range(rim, height - rim - cell + 1, cell):
        for left in range(rim, width - rim - cell + 1, cell):
            piece = edges[top : top + cell, left : left + cell]
            y, x = np.unravel_index(int(piece.argmax()), piece.shape)
            if piece[y, x] > 4.0:
                points.append((top + y, left + x))
    found = np.array(points, np.int64).reshape(-1, 2)
    return found[:, 0], found[:, 1]


def _cost(one: _Floats, other: _Floats, rows: NDArray[np.int64], columns: NDArray[np.int64], dy: int, dx: int) -> float:
    """Median over the landmarks of how much they differ; half of them may have been edited."""
    apart = [np.abs(one[rows + j, columns + i] - other[rows + j + dy, columns + i + dx]) for j, i in _CROSS]
    return float(np.quantile(np.mean(apart, 0), 0.4))


_CROSS = ((0, 0), (-1, 0), (1, 0), (0, -1), (0, 1))


def _between(costs: NDArray[np.float64], lowest: int) -> float:
    """Where between its neighbours the lowest cost lies, -0.5 to 0.5: the vertex of two lines of like slope."""
    if not 0 < lowest < len(costs) - 1 or costs[lowest] < 1e-3:
        return 0.0
    left, middle, right = costs[lowest - 1 : lowest + 2].tolist()
    return float(np.clip((left - right) / (2 * max(max(left, right) - middle, 1e-6)), -0.5, 0.5))


def _recoloured(before: _Floats, after: _Floats) -> _Floats:
    """The second image with gain and offset of each channel fitted to the first where they agree best."""
    if (np.abs(before - after).max(-1) <= STILL_SAME).mean() > 0.25:
        return after
    fitted = after.copy()
    for channel in range(3):
        x, y = after[::2, ::2, channel].ravel(), before[::2, ::2, channel].ravel()
        gain, offset = 1.0, float(np.median(y - x))
        for _ in range(4):
            error = np.abs(gain * x + offset - y)
            near = error <= np.quantile(error, 0.6)
            spread = float(x[near].var())
            gain = float(np.cov(x[near], y[near], bias=True)[0, 1] / spread) if spread > 25 else 1.0
            gain = float(np.clip(gain, 0.85, 1.15))
            offset = float(np.clip(np.mean(y[near] - gain * x[near]), -25, 25))
        fitted[..., channel] = gain * after[..., channel] + offset
    return fitted


def _difference(before: _Floats, after: _Floats) -> tuple[Field, Field]:
    """How much the two differ at every pixel, and how much texture there is, both in grey levels."""
    slow = min(before.shape[:2]) / 250
    apart = [
        np.abs(cv2.GaussianBlur(before, (0, 0), sigma) - cv2.GaussianBlur(after, (0, 0), sigma)).max(-1)
        for sigma in (0.6, 0.6 + slow)
    ]
    texture = np.abs(before - cv2.GaussianBlur(before, (0, 0), 2.0)).mean(-1)
    return np.minimum(apart[0], 1.5 * apart[1]), np.asarray(cv2.GaussianBlur(texture, (0, 0), 2.0), np.float32)


def _noise(difference: Field, texture: Field, whole: bool) -> Field:
    """The usual difference at every pixel: a level of the whole frame, and a share of the texture.

    Both are low quantiles, doubled as a normal noise would have it: more than half of the frame may be edited. After a
    shift by less than a pixel, texture differs even in a perfect copy.
    """
    if whole and (difference <= STILL_SAME).mean() > 0.25:
        return np.zeros_like(difference)
    plain = texture <= np.median(texture)
    level = 2.0 * float(np.quantile(difference[plain], 0.3))
    rough = ~plain & (texture > 2)
    rise = (difference[rough] - level) / texture[rough] if rough.any() else np.zeros(1)
    share = float(np.clip(2.0 * np.quantile(rise, 0.3), 0.0, 1.5))
    return np.asarray(level + share * texture, np.float32)


def _plain(region: Plane, difference: Field) -> Plane:
    """Without parts that are next to nothing beside the plainest one: an editor's slips, not the edit."""
    count, labels = cv2.connectedComponents(region.astype(np.uint8), connectivity=8)
    weight = np.bincount(labels.ravel(), difference.ravel(), minlength=count)
    weight[0] = 0
    return np.asarray((weight >= SLIP * weight.max())[labels] & region)


def _hysteresis(weak: Plane, strong: Plane, least: float) -> Plane:
    """The connected parts of ``weak`` that hold something strong, and are no specks."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(weak.astype(np.uint8), connectivity=8)
    holds = np.bincount(labels[strong], minlength=count) > 0
    holds &= stats[:, cv2.CC_STAT_AREA] >= least
    holds[0] = False
    return np.asarray(holds[labels])
