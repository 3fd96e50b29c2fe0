"""Makes the small moving scene that most tests edit, and names the example clip of the repository."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from loraedit.types import Frames, Image, Mask

EXAMPLE = Path(__file__).parents[2] / "examples/pedestrian"


@dataclass(frozen=True)
class Scene:
    """Holds a square that moves over noise, its edited first frame, and a loose mask."""

    source: Frames
    edited_first: Image
    mask: Mask


def make_scene(frames: int = 5, height: int = 36, width: int = 44) -> Scene:
    """Draws a red square of 12 pixels that moves right by 2 pixels a frame and turns blue in the edit."""
    rng = np.random.default_rng(0)
    ground = rng.integers(0, 256, (height, width, 3), np.uint8)
    source = np.repeat(ground[None], frames, 0)
    mask = np.zeros((frames, height, width), bool)
    for index in range(frames):
        left = 8 + 2 * index
        source[index, 10:22, left : left + 12] = (200, 40, 40)
        mask[index, 7:25, left - 3 : left + 15] = True
    edited = source[0].copy()
    edited[10:22, 8:20] = (40, 60, 220)
    return Scene(source, edited, mask)
