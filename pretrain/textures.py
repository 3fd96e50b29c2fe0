"""Draws textures for the procedural clips: palettes, patterns, noise and photographs.

Every function takes an explicit ``numpy.random.Generator``; textures are uint8 RGB ``[S, S, 3]``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

Rng = np.random.Generator
Image = NDArray[np.uint8]

TEXTURE_SIZE = 96
MIN_PHOTO_SIDE = 160

COLOUR_NAMES = {
    "black": (20, 20, 20), "white": (240, 240, 240), "grey": (128, 128, 128), "red": (205, 35, 35),
    "orange": (240, 140, 30), "yellow": (240, 220, 50), "green": (45, 160, 60), "cyan": (60, 200, 210),
    "blue": (45, 75, 205), "purple": (130, 50, 170), "pink": (240, 130, 190), "brown": (120, 75, 40),
}  # fmt: skip


@dataclass(frozen=True)
class Texture:
    """Holds a square of colour with the words that describe it."""

    image: Image
    words: str


def colour_name(rgb: NDArray[np.floating] | Image) -> str:
    """Returns the name of the nearest of twelve basic colours."""
    mean = np.asarray(rgb, dtype=np.float32).reshape(-1, 3).mean(0)
    return min(COLOUR_NAMES, key=lambda name: float(np.square(mean - COLOUR_NAMES[name]).sum()))


def random_colour(rng: Rng) -> NDArray[np.float32]:
    """Draws a colour in HSV, so that vivid ones are as common as dull ones; float32 RGB, 0 to 255."""
    hsv = np.array([[[rng.integers(180), 255 * rng.beta(1.6, 1.2), 255 * rng.beta(2.0, 1.2)]]]).astype(np.uint8)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0, 0].astype(np.float32)


def palette(rng: Rng, count: int) -> NDArray[np.float32]:
    """Draws colours that differ from each other, float32 ``[count, 3]``."""
    colours = [random_colour(rng)]
    while len(colours) < count:
        colour = random_colour(rng)
        if np.abs(colour - colours[-1]).sum() > 90 or rng.random() < 0.1:
            colours.append(colour)
    return np.stack(colours)


def noise(rng: Rng, size: int, octaves: int, roughness: float) -> NDArray[np.float32]:
    """Draws value noise of several octaves, float32 ``[size, size]``, 0 to 1; roughness 1 weighs octaves equally."""
    total = np.zeros((size, size), np.float32)
    for octave in range(octaves):
        cells = min(size, 3 * 2**octave)
        grid = rng.random((cells, cells), dtype=np.float32)
        total += roughness**octave * cv2.resize(grid, (size, size), interpolation=cv2.INTER_CUBIC)
    total -= total.min()
    return total / max(float(total.max()), 1e-6)


def _blend(weight: NDArray[np.float32], colours: NDArray[np.float32]) -> NDArray[np.float32]:
    """Maps [0, 1] to the palette, piecewise linearly."""
    stops = np.linspace(0, 1, len(colours))
    return np.stack([np.interp(weight, stops, colours[:, c]) for c in range(3)], -1).astype(np.float32)


def _coordinates(rng: Rng, size: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Returns rotated unit coordinates, each ``[size, size]``, about [-0.7, 0.7]."""
    y, x = np.mgrid[0:size, 0:size].astype(np.float32) / size - 0.5
    angle = rng.choice([0.0, np.pi / 2, rng.uniform(0, np.pi)])
    return np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x


def _wave(rng: Rng, u: NDArray[np.float32], cycles: float) -> NDArray[np.float32]:
    """Returns a smooth or a hard periodic wave in [0, 1]."""
    wave = 0.5 + 0.5 * np.sin(2 * np.pi * (cycles * u + rng.random()))
    return np.clip((wave - 0.5) * 8 + 0.5, 0, 1) if rng.random() < 0.6 else wave


def _plain(rng: Rng, size: int) -> NDArray[np.float32]:
    return np.broadcast_to(random_colour(rng), (size, size, 3)).astype(np.float32)


def _gradient(rng: Rng, size: int) -> NDArray[np.float32]:
    u, _ = _coordinates(rng, size)
    return _blend(np.clip(u + 0.5, 0, 1), palette(rng, 2))


def _striped(rng: Rng, size: int) -> NDArray[np.float32]:
    u, _ = _coordinates(rng, size)
    return _blend(_wave(rng, u, rng.uniform(1.5, 7)), palette(rng, 2))


def _checked(rng: Rng, size: int) -> NDArray[np.float32]:
    u, v = _coordinates(rng, size)
    cycles = rng.uniform(1.5, 5)
    weight = np.abs(_wave(rng, u, cycles) - _wave(rng, v, cycles * rng.choice([1.0, rng.uniform(0.5, 2)])))
    return _blend(weight, palette(rng, 2))


def _dotted(rng: Rng, size: int) -> NDArray[np.float32]:
    u, v = _coordinates(rng, size)
    cycles = rng.uniform(2, 6)
    distance = np.hypot((u * cycles) % 1 - 0.5, (v * cycles) % 1 - 0.5)
    return _blend(np.clip((rng.uniform(0.2, 0.4) - distance) * 12 + 0.5, 0, 1), palette(rng, 2))


def _noisy(rng: Rng, size: int) -> NDArray[np.float32]:
    weight = noise(rng, size, int(rng.integers(2, 6)), rng.uniform(0.4, 0.9))
    return _blend(weight, palette(rng, int(rng.integers(2, 5))))


def _marbled(rng: Rng, size: int) -> NDArray[np.float32]:
    u, _ = _coordinates(rng, size)
    warp = noise(rng, size, 4, 0.6)
    weight = 0.5 + 0.5 * np.sin(2 * np.pi * (rng.uniform(1, 4) * u + rng.uniform(0.8, 2) * warp))
    return _blend(weight.astype(np.float32), palette(rng, int(rng.integers(2, 4))))


PATTERNS = {
    "plain": _plain, "gradient": _gradient, "striped": _striped, "checked": _checked,
    "dotted": _dotted, "noisy": _noisy, "marbled": _marbled,
}  # fmt: skip


def pattern_texture(rng: Rng, size: int = TEXTURE_SIZE) -> Texture:
    """Draws a procedural texture: a pattern, half of the time with fine noise over it."""
    name = str(rng.choice(list(PATTERNS), p=[0.12, 0.1, 0.18, 0.15, 0.15, 0.18, 0.12]))
    image = PATTERNS[name](rng, size)
    if rng.random() < 0.5:
        image = image * (1 + rng.uniform(0.1, 0.5) * (noise(rng, size, 5, 0.9)[..., None] - 0.5))
    image = np.clip(image, 0, 255).astype(np.uint8)
    return Texture(image, f"{colour_name(image)} {name}")


def photo_texture(rng: Rng, photos: tuple[Image, ...], size: int = TEXTURE_SIZE) -> Texture:
    """Crops a photograph at random, and sometimes recolours it (channels swapped, tinted, made brighter or darker)."""
    photo = photos[int(rng.integers(len(photos)))]
    side = int(rng.uniform(min(photo.shape[:2]) * 0.2, min(photo.shape[:2])))
    top, left = (int(rng.integers(0, n - side + 1)) for n in photo.shape[:2])
    image = cv2.resize(photo[top : top + side, left : left + side], (size, size), interpolation=cv2.INTER_AREA)
    if rng.random() < 0.5:
        image = image[:, ::-1]
    if rng.random() < 0.5:
        gain = rng.uniform(0.6, 1.3, size=3)
        image = np.clip(image[..., rng.permutation(3)] * gain, 0, 255).astype(np.uint8)
    return Texture(np.ascontiguousarray(image), f"{colour_name(image)} photo")


def texture(rng: Rng, photos: tuple[Image, ...], photo_share: float, size: int = TEXTURE_SIZE) -> Texture:
    """Draws a photograph with the given probability, and a procedural pattern otherwise."""
    if photos and rng.random() < photo_share:
        return photo_texture(rng, photos, size)
    return pattern_texture(rng, size)


@lru_cache(maxsize=1)
def load_photos(folders: tuple[Path, ...], longest_side: int = 640) -> tuple[Image, ...]:
    """Loads every colour photograph under the folders that is large enough and not a graphic, in a stable order."""
    photos: list[Image] = []
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            if path.suffix.lower() not in {".jpg", ".jpeg", ".png"}:
                continue
            image = cv2.imread(str(path), cv2.IMREAD_COLOR)
            if image is None or min(image.shape[:2]) < MIN_PHOTO_SIDE or _is_graphic(image):
                continue
            scale = min(1.0, longest_side / max(image.shape[:2]))
            small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
            photos.append(np.ascontiguousarray(small[..., ::-1]))
    return tuple(photos)


def _is_graphic(image: Image) -> bool:
    """Returns True for diagrams, screenshots and text: few distinct colours, or no variation at all."""
    small = cv2.resize(image, (64, 64), interpolation=cv2.INTER_NEAREST) >> 3
    codes = small.astype(np.int32) @ np.array([1024, 32, 1])
    return len(np.unique(codes)) < 300
