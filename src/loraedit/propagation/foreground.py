"""Separation of the object inside a loose mask from the background, by motion and by what stays the same over time.

The object is what moves unlike the background, and what covers places that show something else at other times. What an
edit changed beside it is a part that it added. Where an edit shows the background in place of the object, it uncovered
it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray

from loraedit.optical_flow.base import FlowOptions
from loraedit.optical_flow.estimators import flow_between, open_estimator
from loraedit.optical_flow.fields import Field, pixel_grid, sample_at
from loraedit.propagation.added_parts import AddedPart, ShapeChange, inside_frame
from loraedit.tracking.motion import fit_camera_motion, relative_speed, transform_points
from loraedit.tracking.regions import grown, opened, shrunk
from loraedit.tracking.scale import Scale
from loraedit.types import Frames, Image, Mask, Plane, Size

__all__ = ["ForegroundSeparator"]

FLOW_SIDE_PX = 224
"""Frames with a shorter side are enlarged before flow is measured."""
MIN_MOTION = 1.5 / 128
"""Share of the shorter side; an object must move at least this far against the background to be separated from it."""
RIM = 4 / 128
"""Share of the shorter side by which the object is shrunk, because flow is smooth across outlines."""
MIN_PART = 0.01
"""Share of the object's area; smaller changes beside the object are not taken for an added part."""
CHANGED_LEVELS = 12.0
"""Grey levels from which on a pixel of an edited frame counts as changed."""
SAME_LEVELS = 16.0
"""Grey levels up to which a place shows the same at another time."""
OBJECT_BELOW, BACKGROUND_ABOVE = 0.3, 0.8
"""Shares of the other frames in which a place shows the same: below the first it belongs to the object, above the
second to the background, even close to a moving object."""
UNCOVERED_WEIGHT = 10
"""Weight of a frame in which the place lies outside of the mask, so that no object can cover it."""
MIN_SAME_UNDER_PART = 0.65
"""Least mean share of frames in which the place under an added part shows the same; remains of an object show less."""
SHOWN_AGAIN = 0.1
"""Least share of the frames that show the same as an edited place, for the edit to show the background there."""
MIN_UNCOVERED = 0.05
"""Least share of the changed pixels of an object that other frames show as the background; fewer are chance."""
FRAME_OFFSETS = (1, 2, 3, 4, 6, 8, 12)
"""Frame distances over which the object's motion is measured, in the order in which they are tried."""


class ForegroundSeparator:
    """Separates the object inside a mask from the background, frame by frame.

    Results are computed on demand and kept; they depend on the source, the mask and the estimator alone.

    Args:
        source: uint8 ``[F, H, W, 3]``.
        mask: bool ``[F, H, W]``, a loose mask of the object.
        flow: names the flow estimator; its size and smoothness are set here.
    """

    def __init__(self, source: Frames, mask: Mask, flow: FlowOptions) -> None:
        self._scale = Scale.of(Size(*source.shape[1:3]))
        self._source = np.stack([self._scale.image(frame) for frame in source])
        self._mask = np.stack([self._scale.plane(plane) for plane in mask])
        options = replace(flow, min_side_px=FLOW_SIDE_PX, smoothness=FlowOptions.smoothness)
        self._estimator = open_estimator(Size(*self._source.shape[1:3]), options)
        self._short_side = min(self._scale.small)
        self._foregrounds: dict[int, Plane | None] = {}
        self._same_shares: dict[int, Field] = {}

    def foreground(self, index: int) -> Plane | None:
        """Returns the object in a frame, bool ``[H, W]``; None if it cannot be separated from the background."""
        small = self._small_foreground(index)
        return None if small is None else self._scale.back(small)

    def find_shape_change(self, index: int, edited: Image) -> ShapeChange | None:
        """Finds how an edited frame changes the outline of the object; None if the object is not found.

        Args:
            index: of the frame.
            edited: uint8 ``[H, W, 3]``.
        """
        small, source = self._scale.image(edited), self._source[index]
        changed = (_difference(small, source, 0.7) > CHANGED_LEVELS) & self._mask[index]
        if not changed.any() or (foreground := self._small_foreground(index)) is None:
            return None
        uncovered = self._scale.back(self._uncovered(index, small, changed & foreground))
        beside = opened(changed & ~foreground, 1)
        if beside.sum() < max(1.0, MIN_PART * foreground.sum()):
            return ShapeChange(None, None, uncovered)
        same, rim = self._same_share(index), self._px(RIM)
        region = changed & ~shrunk(foreground, rim) & grown(beside, 2 * rim)
        if same[beside].mean() >= MIN_SAME_UNDER_PART:
            return ShapeChange(self._part(region, region & (same >= OBJECT_BELOW), foreground), None, uncovered)
        around = grown(self._mask[index], 4 * rim) & ~foreground & ~grown(changed, rim)
        if around.any() and same[around].mean() >= MIN_SAME_UNDER_PART:  # so the rest is an object that was not found
            region &= opened(beside & (same >= MIN_SAME_UNDER_PART), 1)
        return ShapeChange(None, self._part(region, region, foreground) if region.any() else None, uncovered)

    def _part(self, *planes: Plane) -> AddedPart:
        return AddedPart(*(self._scale.back(plane) for plane in planes))

    def _small_foreground(self, index: int) -> Plane | None:
        if index not in self._foregrounds:
            moving = self._moving(index)
            self._foregrounds[index] = None if moving is None else self._complete(index, moving)
        return self._foregrounds[index]

    def _complete(self, index: int, moving: Plane) -> Plane:
        """Corrects the moving region: adds what stands still at the moment, and drops moving background nearby."""
        same = self._same_share(index)
        certain = shrunk(moving, self._px(RIM)) | (self._mask[index] & (same < OBJECT_BELOW))
        return np.asarray(certain | (moving & (same < BACKGROUND_ABOVE)))

    def _moving(self, index: int) -> Plane | None:
        """Finds what moves unlike the background, by the nearest frame that shows it."""
        mask = self._mask[index]
        for other in (index + sign * offset for offset in FRAME_OFFSETS for sign in (1, -1)):
            if not 0 <= other < len(self._source) or not mask.any():
                continue
            speeds = cv2.GaussianBlur(relative_speed(self._flow(index, other), self._still(index)), (0, 0), 0.7)
            usual = np.quantile(speeds[mask], 0.9)
            if usual > MIN_MOTION * self._short_side:
                return np.asarray((speeds > 0.5 * usual) & mask)
        return None

    def _same_share(self, index: int) -> Field:
        """Returns the share of the other frames in which each place of the background shows the same, ``[H, W]``."""
        if index not in self._same_shares:
            same, seen = np.zeros((2, *self._source.shape[1:3]), np.float32)
            for view, inside, covered in self._views(index):
                weights = inside * np.where(covered, 1, UNCOVERED_WEIGHT).astype(np.float32)
                same += weights * (_difference(view, self._source[index], 1.0) < SAME_LEVELS)
                seen += weights
            self._same_shares[index] = same / np.maximum(seen, np.float32(1))
        return self._same_shares[index]

    def _uncovered(self, index: int, edited: Image, candidates: Plane) -> Plane:
        """Finds where an edit shows the background in place of the object, among some pixels of the object.

        The background is known where other frames show it. A place that they never show goes by the nearest that they
        do.
        """
        again, differs = np.zeros((2, *candidates.shape), np.float32)
        for view, inside, covered in self._views(index):
            same = _difference(view, edited, 1.0) < SAME_LEVELS
            again += inside & same
            differs += inside & ~covered & ~same
        often = again > np.maximum(SHOWN_AGAIN * len(self._source), self._same_share(index) * len(self._source))
        background, object_ = opened(candidates & often, 1), opened(candidates & ~often & (differs > 0), 1)
        if background.sum() <= MIN_UNCOVERED * candidates.sum():
            return np.zeros_like(candidates)
        return np.asarray(candidates & (_distance(background) < _distance(object_)))

    def _views(self, index: int) -> Iterator[tuple[Field, Plane, Plane]]:
        """Yields what each other frame shows in the places of the background of a frame.

        Yields:
            Its pixels ``[H, W, 3]``, where they are inside of it, and where its mask covers them, ``[H, W]``.
        """
        here = pixel_grid(self._source[index])
        for other in range(len(self._source)):
            if other != index:
                motion = self._camera_motions[other] @ np.linalg.inv(self._camera_motions[index])
                places = np.asarray(transform_points(here, motion[:2]), np.float32)
                covered = sample_at(self._mask[other].astype(np.float32), places) > 0.01
                yield sample_at(self._source[other], places), inside_frame(places), covered

    @cached_property
    def _camera_motions(self) -> list[NDArray[np.float64]]:
        """The background's motion from the first frame to every other, ``[3, 3]``."""
        motions = [np.eye(3)]
        for index in range(len(self._source) - 1):
            step = fit_camera_motion(self._flow(index, index + 1), self._still(index))
            motions.append(np.vstack([step, (0, 0, 1)]) @ motions[-1])
        return motions

    def _flow(self, index: int, other: int) -> Field:
        return flow_between(self._estimator, self._source[index], self._source[other])

    def _still(self, index: int) -> Plane:
        return ~grown(self._mask[index], 2)

    def _px(self, share: float) -> int:
        return max(1, round(share * self._short_side))


def _distance(mask: Plane) -> Field:
    """Returns the distance of every pixel from a mask, ``[H, W]`` in pixels; very large if the mask is empty."""
    if not mask.any():
        return np.full(mask.shape, np.inf, np.float32)
    return np.asarray(cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE), np.float32)


def _difference(one: NDArray[np.generic], other: Image, sigma_px: float) -> Field:
    """Returns the largest difference of a channel around every pixel, ``[H, W]`` in grey levels."""
    difference = np.abs(one.astype(np.float32) - other).max(-1)
    return np.asarray(cv2.GaussianBlur(difference, (0, 0), sigma_px), np.float32)
