"""Draws a patterned square that moves over smooth noise, for the tests of tracking and of `loraedit mask`."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np

from loraedit.types import Clip, Frames, Image, Mask, Plane
from loraedit.video import write_clip, write_image

HEIGHT, WIDTH = 72, 120
SIDE = 22


def ground(seed: int = 0) -> Image:
    """Returns smooth noise, as backgrounds are."""
    noise = np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    return cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 1.5), None, 60, 200, cv2.NORM_MINMAX)


def patch(seed: int = 1) -> Image:
    """Returns a reddish square with a pattern."""
    noise = np.random.default_rng(seed).integers(0, 80, (SIDE, SIDE, 3), np.uint8)
    return cv2.GaussianBlur(noise, (0, 0), 1.0) + np.array([150, 0, 0], np.uint8)


def square_at(left: int, top: int = 25) -> Plane:
    """Returns the mask of the square at a position."""
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[top : top + SIDE, max(left, 0) : max(left + SIDE, 0)] = True
    return mask


def moving_square(lefts: list[int], top: int = 25) -> tuple[Frames, Mask]:
    """Returns frames with the square at these positions over the same ground, and its masks."""
    frames = np.repeat(ground()[None], len(lefts), 0)
    for frame, left in zip(frames, lefts, strict=True):
        frame[top : top + SIDE, left : left + SIDE] = patch()
    return frames, np.stack([square_at(left, top) for left in lefts])


def overlap(one: Mask, other: Mask) -> list[float]:
    """Returns the intersection over union of each frame."""
    return [float((a & b).sum() / max((a | b).sum(), 1)) for a, b in zip(one, other, strict=True)]


def write_mask_inputs(folder: Path) -> Path:
    """Writes the inputs of `loraedit mask`: a clip of five frames, edits of its first frame, and masks."""
    frames, truth = moving_square([8 + 4 * index for index in range(5)])
    write_clip(folder / "source.mkv", Clip(frames, Fraction(10)))
    edited = frames[0].copy()
    edited[truth[0]] = 255 - edited[truth[0]]
    write_image(folder / "edited.png", edited)
    write_image(folder / "same.png", frames[0])
    write_image(folder / "restyled.png", 255 - frames[0])
    write_image(folder / "shifted.png", np.roll(frames[0], 3, 1))
    write_image(folder / "seed.png", np.repeat(truth[0][..., None] * np.uint8(255), 3, -1))
    write_image(folder / "small.png", frames[0, :20, :20])
    return folder
