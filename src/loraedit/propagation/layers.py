"""Splits a keyframe into what the source's flow carries, and what is attached to an object."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from loraedit.propagation.added_parts import AddedPart, ShapeChange
from loraedit.propagation.foreground import ForegroundSeparator
from loraedit.propagation.keyframes import Keyframe
from loraedit.types import Image, Pixels, Weights

__all__ = ["KeyframeLayers", "split"]

SMALL_CHANGE_LEVELS = 24.0
"""Grey levels of change at which the weight of the source's own pixel has fallen to 1 / e."""


@dataclass(frozen=True)
class KeyframeLayers:
    """A keyframe, split into what the source's flow carries and what is attached to an object.

    Attributes:
        keyframe: the keyframe.
        shape: how it changes the outline of an object.
        ground: uint8 ``[H, W, 3]``, the image without what it adds beside the object.
        change: float32 ``[H, W, 3]``, the ground minus the source.
        sameness: ``[H, W]`` in [0, 1], 1 where nothing changed.
        soundness: ``[H, W]`` in [0, 1], 0 where the source's flow is wrong for the pixels of the edit.
    """

    keyframe: Keyframe
    shape: ShapeChange | None
    ground: Image
    change: Pixels
    sameness: Weights
    soundness: Weights

    @property
    def beside(self) -> AddedPart | None:
        """What the keyframe adds beside an object, or its pixels of an unknown way there."""
        return (self.shape.added or self.shape.unknown) if self.shape else None

    @property
    def shows_part(self) -> bool:
        """Whether what it adds beside an object is shown in other frames; pixels of an unknown way are not."""
        return self.shape is not None and self.shape.added is not None


def split(keyframe: Keyframe, frame_count: int, separator: ForegroundSeparator | None) -> KeyframeLayers:
    """Splits a keyframe.

    Args:
        keyframe: the keyframe.
        frame_count: frames of the clip that it is carried through.
        separator: finds how it changes the outline of the object; None looks for nothing.
    """
    shape = keyframe.shape
    if keyframe.is_source:
        shape = None
    elif separator is not None and 0 <= keyframe.index < frame_count:
        shape = separator.find_shape_change(keyframe.index, keyframe.image)
    image, source = keyframe.image, keyframe.source
    added = shape.added if shape else None
    ground = image if added is None else np.where(added.over_background[..., None], source, image)
    change: Pixels = ground.astype(np.float32) - source
    size = cv2.GaussianBlur(np.abs(change).max(-1), (0, 0), 1.0)
    sameness = np.exp(-np.square(size / SMALL_CHANGE_LEVELS))
    return KeyframeLayers(keyframe, shape, ground, change, sameness, _soundness(shape, source.shape[:2]))


def _soundness(shape: ShapeChange | None, size: tuple[int, ...]) -> Weights:
    if shape is None:
        return np.ones(size, np.float32)
    wrong = shape.uncovered if shape.unknown is None else shape.uncovered | shape.unknown.region
    return np.float32(1) - wrong
