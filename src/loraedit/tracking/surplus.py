"""What a mask of an object contains beyond its outline: a margin around it, and its shadow.

People draw loose outlines, and masks of objects often include their shadows. Neither moves as the object seems to: the
flow in them is that of the ground. So both are removed before an object is tracked, and added again in every frame.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from loraedit.optical_flow.fields import Field
from loraedit.tracking.regions import closed, filled, grabcut, grown, opened, shrunk
from loraedit.types import Image, Plane

__all__ = ["Shadow", "Surplus"]

_Point = NDArray[np.float64]  # x and y

MIN_MARGIN_PX = 1.5
"""The least margin that is removed."""
MIN_SHADOW_SHARE = 0.14
"""Share of the mask; a smaller part that does not move with the object is not taken for a shadow."""
RIM_PX = 6
"""A shadow is found again by its pixels and by a rim of this width around it."""
SEARCH_PX = 8
"""The largest distance of a shadow from where the object's motion takes it, in each direction."""
FOOT_SHARE = 0.3
"""The share of the vertical motion of an object's foot that its shadow follows; people also lift their feet."""
SHIFT_PENALTY = 0.01
"""The correlation that each pixel of deviation from the expected place costs."""


@dataclass(frozen=True)
class Surplus:
    """What a mask contains beyond the object.

    Attributes:
        core: bool ``[H, W]``, the object itself.
        margin_px: how far the mask extends beyond the object.
        shadow: bool ``[H, W]``, the part of the mask that does not move with the object; all False if there is none.
    """

    core: Plane
    margin_px: int
    shadow: Plane

    @classmethod
    def of(cls, image: Image, mask: Plane, slow: Plane, background_like: Plane, reach: int) -> Surplus:
        """Separates the object, its margin and its shadow.

        Args:
            image: uint8 ``[H, W, 3]``.
            mask: bool ``[H, W]``.
            slow: bool ``[H, W]``, what moves less than the object.
            background_like: bool ``[H, W]``, what moves with the background and lacks the colours of the moving part.
            reach: the largest margin that is considered, in pixels.
        """
        rim = _margin(mask, np.zeros_like(mask), _outline(image, mask, mask, reach))
        certain = opened(mask & background_like, max(2, reach // 2, round(rim / 2) + 1))  # a margin is no shadow
        shadow = opened(grown(certain, 2 * reach) & mask & slow, max(1, reach // 3))
        if certain.sum() < MIN_SHADOW_SHARE * mask.sum() or shadow.sum() > 0.8 * mask.sum():
            shadow = np.zeros_like(mask)
        core = mask & ~shadow
        drawn = _outline(image, core, mask, reach)
        margin = _margin(core, shadow, drawn)
        if margin < MIN_MARGIN_PX or drawn.sum() < 0.3 * core.sum():
            return cls(core, 0, shadow)
        return cls(drawn, round(margin), shadow)


def _outline(image: Image, core: Plane, mask: Plane, reach: int) -> Plane:
    """Segments the object by its colours."""
    drawn = grabcut(image, core * np.float32(0.8) + np.float32(0.1), shrunk(core, reach), ~mask, rounds=3)
    return filled(closed(drawn & core, 1)) & core


def _margin(core: Plane, shadow: Plane, drawn: Plane) -> float:
    """Returns the margin of a mask, in pixels: at least this wide along three quarters of its outline."""
    rim = core & ~shrunk(core, 1) & ~grown(shadow, 2)
    if not rim.any() or not drawn.any():
        return 0.0
    away = cv2.distanceTransform((~drawn).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return float(np.quantile(away[rim], 0.25))


class Shadow:
    """Follows a shadow by its appearance; its outline stays the same.

    Args:
        image: uint8 ``[H, W, 3]``.
        shadow: bool ``[H, W]``.
        core: bool ``[H, W]``, the object itself.
    """

    def __init__(self, image: Image, shadow: Plane, core: Plane) -> None:
        self._shape, self._core = shadow, core
        seen = grown(shadow, RIM_PX) & ~grown(core, 2)
        self._appearance = _grey(image)
        self._seen = np.zeros_like(seen)
        self._seen[::2, ::2] = seen[::2, ::2]
        self._shift, self._last = np.zeros(2), core

    def next(self, image: Image, core: Plane) -> Plane:
        """Returns the shadow in the next frame, bool ``[H, W]``; ``core`` is the object there."""
        if not (self._shape.any() and core.any()):
            return np.zeros_like(core)
        expected = np.rint(self._shift + (_centre(core) - _centre(self._last)) * (1.0, FOOT_SHARE))
        self._shift, self._last = self._search(_grey(image), expected, grown(core, 2)), core
        height, width = core.shape
        shift = np.hstack([np.eye(2), self._shift[:, None]]).astype(np.float32)
        moved = cv2.warpAffine(self._shape.astype(np.uint8), shift, (width, height), borderMode=cv2.BORDER_REPLICATE)
        return np.asarray(moved > 0)

    def _search(self, image: Field, expected: _Point, covered: Plane) -> _Point:
        """Returns the shift with the best correlation near the expected one."""
        ys, xs = np.nonzero(self._seen)
        values, best = self._appearance[ys, xs], (-np.inf, expected)
        height, width = image.shape
        for dy in range(-SEARCH_PX, SEARCH_PX + 1):
            for dx in range(-SEARCH_PX, SEARCH_PX + 1):
                y, x = ys + dy + int(expected[1]), xs + dx + int(expected[0])
                within = (y >= 0) & (y < height) & (x >= 0) & (x < width)
                within[within] = ~covered[y[within], x[within]]
                if within.sum() < 0.2 * len(ys) or within.sum() < 30:
                    continue
                one, other = values[within], image[y[within], x[within]]
                one, other = one - one.mean(), other - other.mean()
                correlation = float((one * other).sum() / np.sqrt((one**2).sum() * (other**2).sum() + 1))
                correlation -= SHIFT_PENALTY * float(np.hypot(dx, dy))
                if correlation > best[0]:
                    best = (correlation, expected + np.array([dx, dy]))
        return np.asarray(best[1])


def _grey(image: Image) -> Field:
    """Converts an image to smoothed grey levels."""
    return np.asarray(cv2.GaussianBlur(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), (0, 0), 1.0), np.float32)


def _centre(mask: Plane) -> _Point:
    """Returns the mean x of an object, and the y of its foot."""
    rows, columns = np.nonzero(mask)
    return np.array([columns.mean(), rows.max()], np.float64)
