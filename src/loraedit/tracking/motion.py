"""Matching of frames by optical flow: where the flow can be trusted, and simple motions that are fitted to it."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from loraedit.optical_flow.base import FlowOptions
from loraedit.optical_flow.estimators import flow_between, open_estimator
from loraedit.optical_flow.fields import Field, photometric_error, pixel_grid, sample_at
from loraedit.types import Image, Plane, Size

__all__ = [
    "Match",
    "Matcher",
    "camera_flow",
    "fit_camera_motion",
    "fit_similarity",
    "relative_speed",
    "transform_points",
    "warp_mask",
]

AGREE_PX, AGREE_SHARE = 1.0, 0.05
"""Forward and backward flow agree if they miss each other by at most this many pixels plus this share of their length.
"""
TRUST_LEVELS = 16.0
"""Grey levels of photometric error at which the trust in a match has fallen to 1 / e."""
MAX_SCALE, MAX_ROTATION = 1.12, 0.25
"""The largest growth and rotation (in radians) of an object from one frame to the next."""


@dataclass(frozen=True)
class Match:
    """How two neighbouring frames match.

    Attributes:
        forward: ``[H, W, 2]``, from the pixels of the earlier frame to the later one.
        back: ``[H, W, 2]``, from the pixels of the later frame to the earlier one.
        trust: ``[H, W]`` in [0, 1], of ``back``.
        forward_agrees: bool ``[H, W]``, where ``forward`` followed by ``back`` returns to the start.
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
        """Measures where each pixel of one image lies in the other, ``[H, W, 2]``."""
        return flow_between(self._estimator, one, other, first_guess)

    def match(self, earlier: Image, later: Image, forward: Field, back: Field) -> Match:
        """Matches two neighbouring frames by the :meth:`flow` between them in both directions."""
        error = photometric_error(later, sample_at(earlier, pixel_grid(back) + back))
        trust = np.exp(-np.square(error / TRUST_LEVELS)) * _agrees(back, forward)
        return Match(forward, back, np.asarray(trust, np.float32), _agrees(forward, back))


def _agrees(flow: Field, opposite: Field) -> Plane:
    """Returns where a flow and the opposite one agree, bool ``[H, W]``."""
    miss = np.linalg.norm(flow + sample_at(opposite, pixel_grid(flow) + flow), axis=-1)
    return np.asarray(miss <= AGREE_PX + AGREE_SHARE * np.linalg.norm(flow, axis=-1))


def fit_similarity(points: Field, targets: Field) -> Field | None:
    """Fits a similarity transform (rotation, scale, shift) to most of some points, ``[2, 3]``.

    Args:
        points: ``[N, 2]`` x and y.
        targets: ``[N, 2]``, where the points went.

    Returns:
        None if there are too few points, if too few of them agree, or if the motion is larger than an object's.
    """
    if len(points) < 12:
        return None
    cv2.setRNGSeed(0)
    fitted, inliers = cv2.estimateAffinePartial2D(points, targets, method=cv2.RANSAC, ransacReprojThreshold=1.5)
    if fitted is None:
        return None
    if inliers.sum() < 0.3 * len(points):
        return None
    scale, rotation = np.hypot(fitted[0, 0], fitted[1, 0]), np.arctan2(fitted[1, 0], fitted[0, 0])
    if not 1 / MAX_SCALE < scale < MAX_SCALE or abs(rotation) > MAX_ROTATION:
        return None
    return np.asarray(fitted, np.float32)


def fit_camera_motion(flow: Field, still: Plane) -> NDArray[np.float64]:
    """Fits an affine motion ``[2, 3]`` of the background.

    Args:
        flow: ``[H, W, 2]``.
        still: bool ``[H, W]``, the background.

    Returns:
        The identity if there is too little background.
    """
    where, chosen = pixel_grid(flow), np.zeros(still.shape, np.bool_)
    chosen[2::6, 2::6] = still[2::6, 2::6]
    points, targets = where[chosen], (where + flow)[chosen]
    fitted = None
    if len(points) >= 12:
        cv2.setRNGSeed(0)
        fitted, _ = cv2.estimateAffine2D(points, targets, method=cv2.RANSAC, ransacReprojThreshold=1.0)
    return np.eye(2, 3) if fitted is None else np.asarray(fitted, np.float64)


def camera_flow(flow: Field, still: Plane) -> Field:
    """Returns the flow that the camera alone causes, ``[H, W, 2]``; ``still`` marks the background."""
    where = pixel_grid(flow)
    return np.asarray(transform_points(where, fit_camera_motion(flow, still)) - where, np.float32)


def transform_points(points: NDArray[np.floating], motion: NDArray[np.floating]) -> NDArray[np.floating]:
    """Applies an affine motion ``[2, 3]`` to points ``[..., 2]``."""
    return np.asarray(points @ motion[:, :2].T + motion[:, 2])


def relative_speed(flow: Field, still: Plane) -> Field:
    """Returns the speed of every pixel relative to the background, which ``still`` marks, in pixels a frame."""
    return np.asarray(np.linalg.norm(flow - camera_flow(flow, still), axis=-1), np.float32)


def warp_mask(mask: Plane, motion: Field) -> Plane:
    """Warps a mask by an affine motion ``[2, 3]``."""
    height, width = mask.shape
    return np.asarray(cv2.warpAffine(mask.astype(np.float32), motion, (width, height)) >= 0.5)
