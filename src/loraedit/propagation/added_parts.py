"""How an edit changes the outline of an object: parts that it adds, such as a hat or a sail, and what it uncovers.

Where an added part lies, the source shows the background, so the source's flow would leave the part behind. Instead it
is attached to the object: it follows the similarity transform (rotation, scale, shift) that fits the motion of most of
the object near it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np

from loraedit.optical_flow.fields import Field, pixel_grid, sample_at
from loraedit.tracking.motion import transform_points
from loraedit.types import Image, Pixels, Plane, Weights

__all__ = ["AddedPart", "AttachedPart", "PlacedPart", "ShapeChange", "attach", "inside_frame"]

MAX_POINTS = 4000
"""The most points of an object that its motion is fitted to."""
MIN_POINTS = 30
"""The fewest points of an object that a motion is fitted to."""
FOLLOW_TOLERANCE = 0.02
"""Share of the shorter side; a point farther than this from where the fitted motion takes it does not follow it."""
VISIBILITY_RAMP = (0.3, 0.5)
"""Weighted shares of the points near a part that follow the motion: invisible up to the first, visible from the
second on."""
FIT_ROUNDS = 15
"""Rounds of the fit; each lowers the weight of the points that the last one did not explain."""


@dataclass(frozen=True)
class AddedPart:
    """What an edited frame adds beside an object.

    Attributes:
        region: bool ``[H, W]``, the part in the edited frame.
        over_background: bool ``[H, W]``, the pixels of the part that cover background, not the object.
        object_mask: bool ``[H, W]``, the object that the part is attached to, in the same frame.
    """

    region: Plane
    over_background: Plane
    object_mask: Plane

    @cached_property
    def distance(self) -> Field:
        """Distance of every pixel from the part, ``[H, W]`` in pixels."""
        outside = (~self.region).astype(np.uint8)
        return np.asarray(cv2.distanceTransform(outside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE), np.float32)

    @cached_property
    def alpha(self) -> Field:
        """The part's region with a soft outline, ``[H, W]`` in [0, 1]."""
        return np.asarray(cv2.GaussianBlur(self.region.astype(np.float32), (0, 0), 0.5), np.float32)


@dataclass(frozen=True)
class ShapeChange:
    """How an edited frame changes the outline of an object.

    Attributes:
        added: the part that it adds beside the object; None if it adds nothing.
        unknown: new pixels beside the object that are no part of it for certain; None if there are none. The flow of
            the background that they cover is wrong for them, and the motion of the object may be.
        uncovered: bool ``[H, W]``, where the source shows the object, and the edit the background behind it.
    """

    added: AddedPart | None
    unknown: AddedPart | None
    uncovered: Plane


@dataclass(frozen=True)
class AttachedPart:
    """An added part in another frame.

    Attributes:
        part: what the edited frame adds.
        image: the edited frame, uint8 ``[H, W, 3]``.
        motion: the similarity transform from the other frame to the edited one, ``[2, 3]``.
        visibility: how reliably the motion of the object was found, 0 to 1; the part fades with it.
    """

    part: AddedPart
    image: Image
    motion: Field
    visibility: float

    def place(self) -> PlacedPart:
        """Returns the part's pixels in the other frame."""
        back = np.asarray(transform_points(pixel_grid(self.image), self.motion), np.float32)
        return PlacedPart(
            sample_at(self.image, back), sample_at(self.part.alpha, back) * inside_frame(back), self.visibility
        )


@dataclass(frozen=True)
class PlacedPart:
    """The pixels of an added part in another frame.

    Attributes:
        colours: float32 ``[H, W, 3]``, 0 to 255.
        alpha: float32 ``[H, W]`` in [0, 1], the part's place.
        visibility: see :class:`AttachedPart`.
    """

    colours: Pixels
    alpha: Weights
    visibility: float

    @property
    def doubt(self) -> Weights:
        """Where the part may lie without being shown, ``[H, W]`` in [0, 1]."""
        return np.asarray(self.alpha * np.float32(1 - self.visibility))


def attach(part: AddedPart, image: Image, foreground: Plane | None, positions: Field) -> AttachedPart | None:
    """Attaches an added part to its object in another frame.

    Args:
        part: what ``image`` adds.
        image: the edited frame, uint8 ``[H, W, 3]``.
        foreground: bool ``[H, W]``, the object in the other frame; None if it is unknown.
        positions: where each pixel of the other frame lies in the edited one, ``[H, W, 2]``, by the source's flow.

    Returns:
        The part in the other frame; None if too little of the object is found there.
    """
    here = pixel_grid(part.region)
    on_object = sample_at(part.object_mask, positions) > 0.5
    points = np.flatnonzero(on_object if foreground is None else on_object & foreground)
    if len(points) < MIN_POINTS:
        return None
    points = points[:: -(-len(points) // MAX_POINTS)]
    targets, origins = positions.reshape(-1, 2)[points], here.reshape(-1, 2)[points]
    nearness = np.exp(-sample_at(part.distance, targets[None])[0] / (np.sqrt(part.region.sum()) + 3))
    motion = _fit_robustly(origins, targets, nearness)
    misses = np.linalg.norm(transform_points(origins, motion) - targets, axis=-1)
    followed = float(nearness[misses < FOLLOW_TOLERANCE * min(part.region.shape)].sum() / nearness.sum())
    return AttachedPart(part, image, motion, float(np.interp(followed, VISIBILITY_RAMP, (0, 1))))


def inside_frame(positions: Field) -> Plane:
    """Returns where positions ``[H, W, 2]`` lie inside the frame ``[H, W]``."""
    height, width = positions.shape[:2]
    x, y = positions[..., 0], positions[..., 1]
    return np.asarray((x >= 0) & (y >= 0) & (x <= width - 1) & (y <= height - 1))


def _fit_robustly(points: Field, targets: Field, weights: Field) -> Field:
    """Fits a similarity transform ``[2, 3]`` by iteratively reweighted least squares."""
    motion = _fit_similarity(points, targets, weights)
    for _ in range(FIT_ROUNDS):
        misses = np.linalg.norm(transform_points(points, motion) - targets, axis=-1)
        robust_weights = weights / (1 + np.square(misses / max(float(np.median(misses)), 0.3)))
        motion = _fit_similarity(points, targets, robust_weights)
    return motion


def _fit_similarity(points: Field, targets: Field, weights: Field) -> Field:
    """Fits the similarity transform ``[2, 3]`` from points ``[N, 2]`` to targets by weighted least squares."""
    share = (weights / weights.sum())[:, None]
    centre, target_centre = (share * points).sum(0), (share * targets).sum(0)
    (x, y), (u, v) = (points - centre).T, (targets - target_centre).T
    cosine, sine = (share[:, 0] * (x * u + y * v)).sum(), (share[:, 0] * (x * v - y * u)).sum()
    linear = np.array([[cosine, -sine], [sine, cosine]]) / ((share[:, 0] * (x * x + y * y)).sum() + 1e-6)
    return np.asarray(np.column_stack([linear, target_centre - linear @ centre]), np.float32)
