"""Finds what an edited frame changes: where it differs from the source frame by more than the noise of an image editor.

An image editor changes more than what was asked for: compression artefacts, slightly different colours, a shift by a
few pixels, repainted texture. So the two frames are registered and their colours are matched. A difference counts only
if it exceeds what is usual in the frame for that amount of texture.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from loraedit.errors import InputError
from loraedit.optical_flow.fields import Field
from loraedit.tracking.regions import closed, filled, opened
from loraedit.types import Image, Plane

__all__ = ["EditedEverywhere", "changed_region", "name_of_frame", "registered"]

COMPARE_SIDE_PX = 400
"""Frames with a longer shorter side are reduced to it before they are compared."""
MAX_SHIFT_PX = 4
"""The largest shift that is searched for, in pixels at the comparison size."""
MAX_CHANGED_SHARE = 0.75
"""Share of changed pixels from which on the whole frame counts as edited."""
RESTYLED_LEVELS = 18.0
"""Usual difference in grey levels from which on the whole frame counts as edited."""
MIN_WEIGHT_SHARE = 0.03
"""A part with less than this share of the most changed part's total difference is an accident of the editor."""
NOISE_FLOOR = 2.5
"""Grey levels up to which a difference never counts."""
UNTOUCHED_LEVELS = 1.0
"""Grey levels up to which a pixel counts as untouched."""

_Floats = NDArray[np.float32]


class EditedEverywhere(InputError):
    """Nearly everything differs between a frame and its edit, as after a change of style."""


def name_of_frame(index: int) -> str:
    """Returns how messages name the edited frame of an index."""
    return f"The reference for frame {index}" if index else "The edited first frame"


def changed_region(source: Image, edited: Image, what: str = "The edited first frame") -> Plane:
    """Finds where an edited frame was edited.

    Args:
        source: uint8 ``[H, W, 3]``, the frame before the edit.
        edited: uint8 ``[H, W, 3]``, the frame after it.
        what: names the edited frame in messages.

    Returns:
        bool ``[H, W]``, True = edited, without holes; at least one pixel is True.

    Raises:
        EditedEverywhere: nearly everything differs.
        InputError: nothing differs, or only noise.
    """
    if np.array_equal(source, edited):
        raise InputError(f"{what} is identical to the source frame. Edit it with an image editor first.")
    height, width = source.shape[:2]
    aligned, whole_pixels = registered(source, edited)
    before, after = _at_compare_size(source), _at_compare_size(aligned)
    small = _edited(before, _match_colours(before, after), whole_pixels, what)
    region = cv2.resize(small.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR) > 0.25
    return np.asarray(region)


def _edited(before: _Floats, after: _Floats, whole_pixels: bool, what: str) -> Plane:
    """Returns the edited region at the comparison size."""
    difference, texture = _difference(before, after)
    noise = _noise(difference, texture, whole_pixels)
    usual = float(np.median(noise))
    weak = difference > np.maximum(NOISE_FLOOR, 2.5 * noise + min(usual, 6.0))
    strong = difference > np.maximum(2 * NOISE_FLOOR, 4.0 * noise + 2 * min(usual, 6.0))
    side = min(difference.shape)
    region = _hysteresis(weak, strong & opened(weak, 1 if side > 64 else 0), least=max(4.0, 2e-4 * weak.size))
    region = _without_slips(region, difference)
    region = filled(closed(region, max(1, side // 60)))
    if usual > RESTYLED_LEVELS or region.mean() > MAX_CHANGED_SHARE:
        raise EditedEverywhere(
            f"{what} differs from the source nearly everywhere, so no mask can be derived from it. "
            "Edit only a part of the frame, or set the edit zone with --mask, for example a box x0,y0,x1,y1."
        )
    if not region.any():
        raise InputError(
            f"{what} differs from the source frame only by noise. "
            "Make a clearer edit, or set the edit zone with --mask."
        )
    return region


def _compare_factor(image: Image | _Floats) -> float:
    """Returns the factor from the size of an image to the comparison size."""
    return min(1.0, COMPARE_SIDE_PX / int(min(image.shape[:2])))


def _at_compare_size(image: Image | _Floats) -> _Floats:
    """Resizes an image to the comparison size, float32."""
    factor = _compare_factor(image)
    size = (max(round(image.shape[1] * factor), 1), max(round(image.shape[0] * factor), 1))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.float32)


def registered(before: Image, after: Image) -> tuple[Image | _Floats, bool]:
    """Shifts the second image to align it with the first.

    The shift is measured at one textured point in each cell of a grid, most of which an edit leaves unchanged: first at
    the comparison size, then around the result at the full size, where most shifts are by whole pixels. Where the
    shifted image has no pixels, the first image is shown.

    Args:
        before: uint8 ``[H, W, 3]``.
        after: uint8 ``[H, W, 3]``.

    Returns:
        The shifted image, 0 to 255, and whether the shift is by whole pixels, which leaves every pixel unchanged.
    """
    factor, place = _compare_factor(before), (0, 0)
    if factor < 1:
        y, x, _ = _shift(_at_compare_size(before), _at_compare_size(after), place, MAX_SHIFT_PX)
        place = round(y / factor), round(x / factor)
    y, x, rest = _shift(before, after, place, MAX_SHIFT_PX if factor == 1 else int(np.ceil(1 / factor)))
    if not (y or x or any(rest)):
        return after, True
    shift = np.array([[1, 0, x + rest[1]], [0, 1, y + rest[0]]], np.float32)
    flags, (height, width) = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, before.shape[:2]
    fallback = before.astype(np.float32)
    moved = cv2.warpAffine(
        after.astype(np.float32), shift, (width, height), fallback, flags=flags, borderMode=cv2.BORDER_TRANSPARENT
    )
    return np.asarray(moved, np.float32), max(map(abs, rest)) < 0.05


def _shift(
    before: Image | _Floats, after: Image | _Floats, place: tuple[int, int], reach: int
) -> tuple[int, int, tuple[float, float]]:
    """Finds the shift in y and x near a place, in whole pixels, with its fraction; 0 if no shift is clearly better."""
    none = 0, 0, (0.0, 0.0)
    one, other = (_texture(np.asarray(image, np.float32)) for image in (before, after))
    rows, columns = _landmarks(one, max(map(abs, place)) + reach + 1)
    if len(rows) < 16:
        return none
    ys, xs = (range(at - reach, at + reach + 1) for at in place)
    costs = np.array([[_cost(one, other, rows, columns, dy, dx) for dx in xs] for dy in ys])
    y, x = (int(index) for index in np.unravel_index(int(costs.argmin()), costs.shape))
    if costs[y, x] > 0.9 * _cost(one, other, rows, columns, 0, 0):
        return none
    return ys[y], xs[x], (_subpixel(costs[:, x], y), _subpixel(costs[y], x))


def _texture(image: _Floats) -> _Floats:
    """Returns the grey texture without slow gradients, lightly smoothed, so that different colours do not count."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    return np.asarray(cv2.GaussianBlur(grey, (0, 0), 0.8) - cv2.GaussianBlur(grey, (0, 0), 4.0), np.float32)


def _landmarks(texture: _Floats, rim: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Returns rows and columns of the most textured point in each cell of a grid, away from the frame's rim."""
    edges = np.hypot(cv2.Sobel(texture, cv2.CV_32F, 1, 0), cv2.Sobel(texture, cv2.CV_32F, 0, 1))
    height, width = texture.shape
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
    """Returns a low quantile of the differences at the landmarks; half of them may have been edited."""
    differences = [np.abs(one[rows + j, columns + i] - other[rows + j + dy, columns + i + dx]) for j, i in _CROSS]
    return float(np.quantile(np.mean(differences, 0), 0.4))


_CROSS = ((0, 0), (-1, 0), (1, 0), (0, -1), (0, 1))


def _subpixel(costs: NDArray[np.float64], lowest: int) -> float:
    """Returns the position of the minimum between its neighbours, -0.5 to 0.5, from two lines of equal slope."""
    if not 0 < lowest < len(costs) - 1 or costs[lowest] < 1e-3:
        return 0.0
    left, middle, right = costs[lowest - 1 : lowest + 2].tolist()
    return float(np.clip((left - right) / (2 * max(max(left, right) - middle, 1e-6)), -0.5, 0.5))


def _match_colours(before: _Floats, after: _Floats) -> _Floats:
    """Fits gain and offset of each channel of the second image to the first, where they agree best."""
    if (np.abs(before - after).max(-1) <= UNTOUCHED_LEVELS).mean() > 0.25:
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
    """Returns how much two images differ at every pixel, and how much texture there is, both in grey levels."""
    slow = min(before.shape[:2]) / 250
    differences = [
        np.abs(cv2.GaussianBlur(before, (0, 0), sigma) - cv2.GaussianBlur(after, (0, 0), sigma)).max(-1)
        for sigma in (0.6, 0.6 + slow)
    ]
    texture = np.abs(before - cv2.GaussianBlur(before, (0, 0), 2.0)).mean(-1)
    smooth_texture = np.asarray(cv2.GaussianBlur(texture, (0, 0), 2.0), np.float32)
    return np.minimum(differences[0], 1.5 * differences[1]), smooth_texture


def _noise(difference: Field, texture: Field, whole_pixels: bool) -> Field:
    """Returns the usual difference at every pixel: a level for the whole frame, plus a share of the texture.

    Both are estimated from low quantiles, because more than half of the frame may be edited, and doubled as for
    normally distributed noise. After a shift by a fraction of a pixel, texture differs even in a perfect copy.
    """
    if whole_pixels and (difference <= UNTOUCHED_LEVELS).mean() > 0.25:
        return np.zeros_like(difference)
    plain = texture <= np.median(texture)
    level = 2.0 * float(np.quantile(difference[plain], 0.3))
    rough = ~plain & (texture > 2)
    rise = (difference[rough] - level) / texture[rough] if rough.any() else np.zeros(1)
    share = float(np.clip(2.0 * np.quantile(rise, 0.3), 0.0, 1.5))
    return np.asarray(level + share * texture, np.float32)


def _without_slips(region: Plane, difference: Field) -> Plane:
    """Removes parts that are negligible beside the most changed one."""
    count, labels = cv2.connectedComponents(region.astype(np.uint8), connectivity=8)
    weight = np.bincount(labels.ravel(), difference.ravel(), minlength=count)
    weight[0] = 0
    return np.asarray((weight >= MIN_WEIGHT_SHARE * weight.max())[labels] & region)


def _hysteresis(weak: Plane, strong: Plane, least: float) -> Plane:
    """Returns the connected parts of ``weak`` that contain a strong pixel and are not specks."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(weak.astype(np.uint8), connectivity=8)
    holds = np.bincount(labels[strong], minlength=count) > 0
    holds &= stats[:, cv2.CC_STAT_AREA] >= least
    holds[0] = False
    return np.asarray(holds[labels])
