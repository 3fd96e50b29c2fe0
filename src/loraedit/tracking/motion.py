"""Dense optical flow between frames, how far it can be trusted, and the plain motions fitted to it."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from loraedit.tracking.base import Plane
from loraedit.types import Image

__all__ = ["Field", "Matcher", "Step", "at", "camera", "fit_similarity", "grid", "misfit", "move"]

Field = NDArray[np.float32]  # [H, W] values, or [H, W, 2] x and y in pixels

SLACK_PX, SLACK = 1.0, 0.05
"""Forward and backward flow agree if they miss each other by no more than this, and this share of their length."""
LIGHT = 16.0
"""Grey levels of difference at which the trust in a match has fallen to 1 / e."""
MAX_SCALE, MAX_TURN = 1.12, 0.25
"""The most that a thing grows, and turns (in radians), from one frame to the next."""


@dataclass(frozen=True)
class Step:
    """How two neighbouring frames match.

    Attributes:
        forward: ``[H, W, 2]``, from the pixels of the earlier frame to the later one.
        back: ``[H, W, 2]``, from the pixels of the later frame to the earlier one.
        trust: ``[H, W]`` in [0, 1], of ``back``.
        forward_agrees: bool ``[H, W]``, where ``forward`` leads there and ``back`` leads home again.
    """

    forward: Field
    back: Field
    trust: Field
    forward_agrees: Plane


class Matcher:
    """DIS optical flow; a class because it keeps its buffers."""

    def __init__(self) -> None:
        self._dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        self._dis.setFinestScale(1)

    def flow(self, one: Image, other: Image, first_guess: Field | None = None) -> Field:
        """``[H, W, 2]``: from each pixel of one image to where it lies in the other."""
        start = np.zeros((*one.shape[:2], 2), np.float32) if first_guess is None else first_guess.copy()
        return np.asarray(self._dis.calc(_grey(one), _grey(other), start), np.float32)

    def step(self, earlier: Image, later: Image) -> Step:
        """The match of two neighbouring frames, both ways."""
        forward, back = self.flow(earlier, later), self.flow(later, earlier)
        trust = np.exp(-np.square(misfit(later, at(earlier, grid(back) + back)) / LIGHT)) * _agrees(back, forward)
        return Step(forward, back, np.asarray(trust, np.float32), _agrees(forward, back))


def _grey(image: Image) -> NDArray[np.uint8]:
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.uint8)


def _agrees(flow: Field, opposite: Field) -> Plane:
    miss = np.linalg.norm(flow + at(opposite, grid(flow) + flow), axis=-1)
    return np.asarray(miss <= SLACK_PX + SLACK * np.linalg.norm(flow, axis=-1))


def grid(like: NDArray[np.generic]) -> Field:
    """The position of every pixel, ``[H, W, 2]`` x and y."""
    height, width = like.shape[:2]
    return np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1).astype(np.float32)


def at(values: NDArray[np.generic], positions: Field) -> Field:
    """Values of an image or a field at positions; beyond its edge, those of the edge."""
    x, y = positions[..., 0], positions[..., 1]
    return np.asarray(cv2.remap(values.astype(np.float32), x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE))


def misfit(one: Image, other: Field) -> Field:
    """Mean absolute difference of the surroundings of every pixel, ``[H, W]`` in grey levels."""
    difference = np.abs(one.astype(np.float32) - other).mean(-1)
    return np.asarray(cv2.GaussianBlur(difference, (0, 0), 1.0), np.float32)


def fit_similarity(points: Field, moved: Field) -> Field | None:
    """The turn, scale and shift that takes most points where they went, ``[2, 3]``; None if there is no plain one.

    Args:
        points: ``[N, 2]`` x and y.
        moved: ``[N, 2]``, where they went.
    """
    if len(points) < 12:
        return None
    cv2.setRNGSeed(0)
    fitted, good = cv2.estimateAffinePartial2D(points, moved, method=cv2.RANSAC, ransacReprojThreshold=1.5)
    if fitted is None:
        return None
    if good.sum() < 0.3 * len(points):
        return None
    scale, turn = np.hypot(fitted[0, 0], fitted[1, 0]), np.arctan2(fitted[1, 0], fitted[0, 0])
    if not 1 / MAX_SCALE < scale < MAX_SCALE or abs(turn) > MAX_TURN:
        return None
    return np.asarray(fitted, np.float32)


def camera(flow: Field, still: Plane) -> Field:
    """The motion of the background alone, ``[H, W, 2]``: one affine motion, fitted where ``still`` holds."""
    where = grid(flow)
    chosen = np.zeros(still.shape, np.bool_)
    chosen[2::6, 2::6] = still[2::6, 2::6]
    points, moved = where[chosen], (where + flow)[chosen]
    if len(points) < 12:
        return np.zeros_like(flow)
    cv2.setRNGSeed(0)
    fitted, _ = cv2.estimateAffine2D(points, moved, method=cv2.RANSAC, ransacReprojThreshold=1.0)
    if fitted is None:
        return np.zeros_like(flow)
    return np.asarray(where @ fitted[:, :2].T + fitted[:, 2] - where, np.float32)


def move(mask: Plane, motion: Field) -> Plane:
    """A mask carried along a plain motion ``[2, 3]``."""
    height, width = mask.shape
    return np.asarray(cv2.warpAffine(mask.astype(np.float32), motion, (width, height)) >= 0.5)
