"""What a mask of an object holds beyond the object's own outline: a margin round it, and its shadow.

People draw loose outlines, and masks of things often hold their shadows. Neither moves as the object seems to: the flow
in them is that of the ground. So both are taken off before an object is followed, and put back on in every frame.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from loraedit.optical_flow.fields import Field
from loraedit.tracking.regions import closed, cut, filled, grown, opened, shrunk
from loraedit.types import Image, Plane

__all__ = ["Shadow", "Surplus"]

_Place = NDArray[np.float64]  # x and y

LEAST_MARGIN = 1.5
"""Pixels from which on a margin is taken for one."""
LEAST_SHADOW = 0.14
"""Share of the mask from which on what does not move is taken for a shadow, or the like."""
RIM_PX = 6
"""A shadow is found again by its pixels and so much round it."""
REACH_PX = 8
"""How far it may be from where the object's last motion takes it, in each direction."""
FOOT = 0.3
"""Share of the motion of an object's foot up and down that its shadow takes part in: people also lift their feet."""
STIFFNESS = 0.01
"""Correlation that an aberration by a pixel has to bring."""


@dataclass(frozen=True)
class Surplus:
    """What a mask holds beyond the object.

    Attributes:
        core: bool ``[H, W]``, the object itself.
        margin_px: how far the mask reaches beyond the object.
        shadow: what belongs to the mask, but does not move as the object does; all False if there is nothing.
    """

    core: Plane
    margin_px: int
    shadow: Plane

    @classmethod
    def of(cls, image: Image, mask: Plane, slow: Plane, silent: Plane, reach: int) -> Surplus:
        """Find out what a mask holds.

        Args:
            image: uint8 ``[H, W, 3]``.
            mask: bool ``[H, W]``.
            slow: bool ``[H, W]``, what moves less than the object.
            silent: bool ``[H, W]``, what stays with the background, and is not coloured as what moves.
            reach: pixels up to which a margin is looked for.
        """
        rim = _margin(mask, np.zeros_like(mask), _outline(image, mask, mask, reach))
        sure = opened(mask & silent, max(2, reach // 2, round(rim / 2) + 1))  # what a margin holds is none
        shadow = opened(grown(sure, 2 * reach) & mask & slow, max(1, reach // 3))
        if sure.sum() < LEAST_SHADOW * mask.sum() or shadow.sum() > 0.8 * mask.sum():
            shadow = np.zeros_like(mask)
        core = mask & ~shadow
        drawn = _outline(image, core, mask, reach)
        margin = _margin(core, shadow, drawn)
        if margin < LEAST_MARGIN or drawn.sum() < 0.3 * core.sum():
            return cls(core, 0, shadow)
        return cls(drawn, round(margin), shadow)


def _outline(image: Image, core: Plane, mask: Plane, reach: int) -> Plane:
    """The outline that the colours give the object."""
    drawn = cut(image, core * np.float32(0.8) + np.float32(0.1), shrunk(core, reach), ~mask, rounds=3)
    return filled(closed(drawn & core, 1)) & core


def _margin(core: Plane, shadow: Plane, drawn: Plane) -> float:
    """How far the rim of a mask lies outside the object, in pixels: no more than this along three quarters of it."""
    rim = core & ~shrunk(core, 1) & ~grown(shadow, 2)
    if not rim.any() or not drawn.any():
        return 0.0
    away = cv2.distanceTransform((~drawn).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return float(np.quantile(away[rim], 0.25))


class Shadow:
    """A part of a mask that is found again by its look: its outline stays, and it goes where the object goes.

    Args:
        image: uint8 ``[H, W, 3]``.
        shadow: bool ``[H, W]``.
        core: bool ``[H, W]``, the object itself.
    """

    def __init__(self, image: Image, shadow: Plane, core: Plane) -> None:
        self._shape, self._core = shadow, core
        seen = grown(shadow, RIM_PX) & ~grown(core, 2)
        self._look = _grey(image)
        self._seen = np.zeros_like(seen)
        self._seen[::2, ::2] = seen[::2, ::2]
        self._place, self._last = np.zeros(2), core

    def go(self, image: Image, core: Plane) -> Plane:
        """Where it is in the next frame, bool ``[H, W]``; ``core`` is where the object is."""
        if not (self._shape.any() and core.any()):
            return np.zeros_like(core)
        guess = np.rint(self._place + (_centre(core) - _centre(self._last)) * (1.0, FOOT))
        self._place, self._last = self._found(_grey(image), guess, grown(core, 2)), core
        height, width = core.shape
        shift = np.hstack([np.eye(2), self._place[:, None]]).astype(np.float32)
        moved = cv2.warpAffine(self._shape.astype(np.uint8), shift, (width, height), borderMode=cv2.BORDER_REPLICATE)
        return np.asarray(moved > 0)

    def _found(self, image: Field, guess: _Place, hidden: Plane) -> _Place:
        ys, xs = np.nonzero(self._seen)
        look, best = self._look[ys, xs], (-np.inf, guess)
        height, width = image.shape
        for dy in range(-REACH_PX, REACH_PX + 1):
            for dx in range(-REACH_PX, REACH_PX + 1):
                y, x = ys + dy + int(guess[1]), xs + dx + int(guess[0])
                within = (y >= 0) & (y < height) & (x >= 0) & (x < width)
                within[within] = ~hidden[y[within], x[within]]
                if within.sum() < 0.2 * len(ys) or within.sum() < 30:
                    continue
                one, other = look[within], image[y[within], x[within]]
                one, other = one - one.mean(), other - other.mean()
                alike = float((one * other).sum() / np.sqrt((one**2).sum() * (other**2).sum() + 1))
                alike -= STIFFNESS * float(np.hypot(dx, dy))
                if alike > best[0]:
                    best = (alike, guess + np.array([dx, dy]))
        return np.asarray(best[1])


def _grey(image: Image) -> Field:
    return np.asarray(cv2.GaussianBlur(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), (0, 0), 1.0), np.float32)


def _centre(mask: Plane) -> _Place:
    """The middle of an object in x, its foot in y."""
    rows, columns = np.nonzero(mask)
    return np.array([columns.mean(), rows.max()], np.float64)
