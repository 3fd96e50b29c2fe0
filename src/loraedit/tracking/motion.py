"""How far the flow between frames can be trusted, and the plain motions fitted to it."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from loraedit.optical_flow.base import FlowOptions
from loraedit.optical_flow.estimators import flow_between, open_estimator
from loraedit.optical_flow.fields import Field, photometric_error, pixel_grid, sample_at
from loraedit.types import Image, Plane, Size

__all__ = ["Matcher", "Step", "camera", "camera_motion", "fit_similarity", "move", "moved", "speed"]

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
    """Matches frames of one size.

    Args:
        size: height and width of the frames.
        flow: the options of the flow estimator.
    """

    def __init__(self, size: Size, flow: FlowOptions) -> None:
        self._estimator = open_estimator(size, flow)

    def flow(self, one: Image, other: Image, first_guess: Field | None = None) -> Field:
        """``[H, W, 2]``: from each pixel of one image to where it lies in the other."""
        return flow_between(self._estimator, one, other, first_guess)

    def step(self, earlier: Image, later: Image, forward: Field, back: Field) -> Step:
        """The match of two neighbouring frames by the :meth:`flow` between them, both ways."""
        error = photometric_error(later, sample_at(earlier, pixel_grid(back) + back))
        trust = np.exp(-np.square(error / LIGHT)) * _agrees(back, forward)
        return Step(forward, back, np.asarray(trust, np.float32), _agrees(forward, back))


def _agrees(flow: Field, opposite: Field) -> Plane:
    miss = np.linalg.norm(flow + sample_at(opposite, pixel_grid(flow) + flow), axis=-1)
    return np.asarray(miss <= SLACK_PX + SLACK * np.linalg.norm(flow, axis=-1))


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


def camera_motion(flow: Field, still: Plane) -> NDArray[np.float64]:
    """The affine motion of the background, ``[2, 3]``, fitted where ``still`` holds; none if that is too little."""
    where, chosen = pixel_grid(flow), np.zeros(still.shape, np.bool_)
    chosen[2::6, 2::6] = still[2::6, 2::6]
    points, found = where[chosen], (where + flow)[chosen]
    fitted = None
    if len(points) >= 12:
        cv2.setRNGSeed(0)
        fitted, _ = cv2.estimateAffine2D(points, found, method=cv2.RANSAC, ransacReprojThreshold=1.0)
    return np.eye(2, 3) if fitted is None else np.asarray(fitted, np.float64)


def camera(flow: Field, still: Plane) -> Field:
    """The motion of the background alone at every pixel, ``[H, W, 2]``."""
    where = pixel_grid(flow)
    return np.asarray(moved(where, camera_motion(flow, still)) - where, np.float32)


def moved(points: NDArray[np.floating], motion: NDArray[np.floating]) -> NDArray[np.floating]:
    """Where an affine motion ``[2, 3]`` takes points ``[..., 2]``."""
    return np.asarray(points @ motion[:, :2].T + motion[:, 2])


def speed(flow: Field, still: Plane) -> Field:
    """How fast every pixel moves against the background, which is where ``still`` holds, in pixels a frame."""
    return np.asarray(np.linalg.norm(flow - camera(flow, still), axis=-1), np.float32)


def move(mask: Plane, motion: Field) -> Plane:
    """A mask carried along a plain motion ``[2, 3]``."""
    height, width = mask.shape
    return np.asarray(cv2.warpAffine(mask.astype(np.float32), motion, (width, height)) >= 0.5)
