"""Draws textures: clouds, marble, stone, wood, cloth, bricks, print, fur and landscapes, in colours chosen in Lab.

Every function draws only from the generator that it is given. Textures are uint8 RGB ``[h, w, 3]``; a *skin* is ``k``
square tiles side by side, ``[S, k * S, 3]``, one for each side of a solid.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["Field", "Rng", "Texture", "backdrop", "dye", "other_pattern", "patched", "plain", "wrapped"]

Rng = np.random.Generator
Texture = NDArray[np.uint8]  # [h, w, 3] RGB
Field = NDArray[np.floating]

TILE = 112
"""Side of a skin's tile in pixels."""
GROUND = 512
"""Side of a backdrop in pixels."""


# ---- colour ------------------------------------------------------------------------------------------------------


def palette(rng: Rng, count: int) -> Field:
    """Draws colours whose lightness is spread and whose hues are neighbours or opposites; ``[count, 3]``, 0 to 255."""
    hues = rng.uniform(0, 2 * np.pi) + rng.choice([0.0, 0.5, 1.1, 2.6, np.pi], count)
    chroma = rng.uniform(12, 66, count)
    light = rng.permutation(np.linspace(rng.uniform(18, 38), rng.uniform(70, 93), count))
    return from_lab(np.stack([light, chroma * np.cos(hues), chroma * np.sin(hues)], -1))


def to_lab(rgb: NDArray[np.generic]) -> Field:
    """Converts RGB of 0 to 255, ``[..., 3]``, to CIE Lab (L 0 to 100)."""
    flat = np.asarray(rgb, np.float32).reshape(1, -1, 3) / 255
    return cv2.cvtColor(flat, cv2.COLOR_RGB2LAB).reshape(rgb.shape)


def from_lab(lab: NDArray[np.generic]) -> Field:
    """Converts CIE Lab ``[..., 3]`` to RGB, clipped to 0 to 255."""
    flat = np.asarray(lab, np.float32).reshape(1, -1, 3)
    return np.clip(cv2.cvtColor(flat, cv2.COLOR_LAB2RGB), 0, 1).reshape(lab.shape) * 255


def ramp(weight: Field, colours: Field) -> Field:
    """Interpolates weights of 0 to 1 in a sequence of colours: ``[h, w]`` to ``[h, w, 3]``."""
    stops = np.linspace(0, 255, len(colours))
    table = np.stack([np.interp(np.arange(256), stops, channel) for channel in colours.T], -1).astype(np.float32)
    return table[np.clip(weight * 255, 0, 255).astype(np.uint8)]


def dye(rng: Rng, texture: Texture) -> Texture:
    """Returns the same pattern in clearly different colours: shifts lightness, and turns all hues to a new one."""
    lab = to_lab(texture)
    mean = lab.reshape(-1, 3).mean(0)
    turn = rng.uniform(1.9, 2 * np.pi - 1.9)
    hue = np.arctan2(mean[2], mean[1]) + turn
    cos, sin = np.cos(turn), np.sin(turn)
    lab[..., 1:] = lab[..., 1:] @ np.array([[cos, sin], [-sin, cos]], np.float32) * 0.8
    lab[..., 1:] += 34 * np.array([np.cos(hue), np.sin(hue)], np.float32)
    lab[..., 0] = 55 + 0.85 * (lab[..., 0] - mean[0]) + (14 if mean[0] < 55 else -14)
    return quantised(from_lab(lab))


def quantised(picture: Field) -> Texture:
    return np.clip(picture + 0.5, 0, 255).astype(np.uint8)


# ---- fields ------------------------------------------------------------------------------------------------------


def spectral(rng: Rng, height: int, width: int, slope: float) -> Field:
    """Draws noise with amplitude 1 / f^slope, mean 0 and deviation 1; ``[height, width]``, periodic."""
    spectrum = np.fft.rfft2(rng.standard_normal((height, width)).astype(np.float32))
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = np.inf
    field = np.fft.irfft2(spectrum * (frequency**-slope).astype(np.float32), (height, width))
    return field / field.std()


def squashed(field: Field) -> Field:
    """Maps a field of mean 0 and deviation 1 to weights of 0 to 1."""
    return 0.5 + 0.5 * np.tanh(0.9 * field)


def grid(height: int, width: int) -> tuple[Field, Field]:
    """Returns row and column of every pixel, each ``[height, width]``."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    return y, x


def voronoi(rng: Rng, height: int, width: int, spacing: float) -> tuple[NDArray[np.int32], Field]:
    """Draws irregular cells: their number, and the distance (px) to their seed, both ``[height, width]``."""
    count = max(4, round(height * width / spacing**2))
    free = np.full((height, width), 255, np.uint8)
    free[rng.integers(0, height, count), rng.integers(0, width, count)] = 0
    distance, label = cv2.distanceTransformWithLabels(free, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    return label, distance


def steps(label: NDArray[np.int32]) -> Field:
    """Returns 1 where a neighbour has another number, softened; ``[h, w]``."""
    plane = label.astype(np.float32)
    kernel = np.ones((3, 3), np.uint8)
    return cv2.GaussianBlur((cv2.dilate(plane, kernel) != cv2.erode(plane, kernel)).astype(np.float32), (0, 0), 0.8)


# ---- patterns: (rng, height, width) -> float32 [height, width, 3] -------------------------------------------------


def clouds(rng: Rng, height: int, width: int) -> Field:
    return ramp(squashed(spectral(rng, height, width, rng.uniform(1.3, 2.1))), palette(rng, 4))


def marble(rng: Rng, height: int, width: int) -> Field:
    base, vein = palette(rng, 2)
    lines = sum(np.exp(-np.abs(spectral(rng, height, width, 1.9)) * rng.uniform(5, 14)) for _ in range(3))
    stone = base + 14 * spectral(rng, height, width, 1.4)[..., None]
    weight = np.clip(lines, 0, 1)[..., None] * 0.9
    return stone * (1 - weight) + vein * weight


def pebbles(rng: Rng, height: int, width: int) -> Field:
    label, distance = voronoi(rng, height, width, rng.uniform(16, 34))
    picture = ramp(rng.random(label.max() + 1, np.float32)[label], palette(rng, 3))
    picture *= (1.15 - 0.025 * distance + 0.06 * spectral(rng, height, width, 0.8))[..., None]
    return picture * (1 - 0.8 * np.clip(steps(label), 0, 1))[..., None]


def wood(rng: Rng, height: int, width: int) -> Field:
    y, x = grid(height, width)
    knot = rng.uniform(0.2, 0.8) * width, rng.uniform(-0.4, 1.4) * height
    radius = np.hypot((x - knot[0]) * rng.uniform(0.12, 0.3), y - knot[1]) / 160
    rings = (radius * rng.uniform(7, 16) + 0.25 * spectral(rng, height, width, 1.8)) % 1
    fibre = cv2.GaussianBlur(rng.standard_normal((height, width)).astype(np.float32), (0, 0), 6, sigmaY=0.6)
    return ramp(np.clip(rings**1.6 + 0.5 * fibre, 0, 1), palette(rng, 2)) * (1 + 0.3 * fibre[..., None])


def tartan(rng: Rng, height: int, width: int) -> Field:
    colours = palette(rng, 4)
    bands = np.repeat(rng.integers(0, 4, 9), rng.choice([3, 6, 12, 20], 9))
    sett = colours[np.concatenate([bands, bands[::-1]])]
    y, x = (axis.astype(int) for axis in grid(height, width))
    twill = np.where((x // 2 + y // 2) % 4 < 2, 0.75, 0.25)[..., None]
    return twill * sett[x % len(sett)] + (1 - twill) * sett[y % len(sett)]


def knit(rng: Rng, height: int, width: int) -> Field:
    pitch = int(rng.integers(9, 15))
    y, x = grid(height, width)
    lean = np.abs(x % pitch - pitch / 2)
    row, column = ((y + lean) // (0.8 * pitch)).astype(int), (x // pitch).astype(int)
    motif = rng.random((5, 4)) < 0.42
    motif = np.concatenate([motif, motif[:, ::-1]], 1)
    picture = palette(rng, 2)[motif[row % 5, column % 8].astype(int)]
    yarn = 0.72 + 0.35 * np.sin(np.pi * ((y + lean) / (0.8 * pitch) % 1)) * np.sin(np.pi * (lean / (pitch / 2)))
    return picture * yarn[..., None]


def bricks(rng: Rng, height: int, width: int) -> Field:
    tall = int(rng.integers(14, 24))
    long = int(tall * rng.uniform(1.6, 2.6))
    y, x = grid(height, width)
    row = (y // tall).astype(int)
    along = x + row % 2 * long / 2
    body, mortar = palette(rng, 2)
    tone = rng.normal(1, 0.13, (row.max() + 1, int(along.max() // long) + 1))[row, (along // long).astype(int)]
    rough = 1 + 0.08 * spectral(rng, height, width, 0.7)
    gap = (y % tall < 2.5) | (along % long < 2.5)
    return np.where(gap[..., None], mortar, body * tone[..., None]) * rough[..., None]


def tiles(rng: Rng, height: int, width: int) -> Field:
    """Draws identical glazed tiles, with a motif that is mirrored four-fold."""
    side = int(rng.choice([32, 40, 54, 80]))
    quarter = spectral(rng, side // 2, side // 2, 1.5)
    half = np.concatenate([quarter, quarter[:, ::-1]], 1)
    motif = np.concatenate([half, half[::-1]], 0)
    y, x = (axis.astype(int) % (side // 2 * 2) for axis in grid(height, width))
    level = np.digitize(cv2.GaussianBlur(motif, (0, 0), 1.2), [-0.5, 0.6])
    picture = palette(rng, 3)[level[y, x]]
    return np.where(((x < 2) | (y < 2))[..., None], 205.0, picture).astype(np.float32)


def print_(rng: Rng, height: int, width: int) -> Field:
    """Draws cloth or paper printed with letters and figures."""
    colours = palette(rng, 4)
    sheet = np.broadcast_to(colours[0], (height, width, 3)).astype(np.uint8).copy()
    for _ in range(height * width // 900):
        sign = str(rng.choice(list("ABGKQRS&2358?@%")))
        place = (int(rng.integers(-20, width)), int(rng.integers(0, height + 20)))
        font, size = int(rng.choice([0, 3, 4, 7])), float(rng.uniform(0.8, 1.8))
        colour = tuple(float(value) for value in colours[rng.integers(1, 4)])
        cv2.putText(sheet, sign, place, font, size, colour, int(rng.integers(2, 6)), cv2.LINE_AA)
    return sheet.astype(np.float32)


def fur(rng: Rng, height: int, width: int) -> Field:
    """Draws spots or mazes as reaction and diffusion form them; some spots have a darker rim."""
    white, fine = rng.standard_normal((height, width)).astype(np.float32), rng.uniform(2.6, 5)
    rise = cv2.GaussianBlur(white, (0, 0), fine) - cv2.GaussianBlur(white, (0, 0), 1.6 * fine)
    rise = rise / rise.std() + rng.choice([-0.5, 0.0])
    coat, spot, heart = palette(rng, 3)
    picture = ramp(np.clip(0.5 + 3 * rise, 0, 1), np.stack([coat, spot]))
    inner = np.clip(4 * (rise - 1.0), 0, 1)[..., None] * float(rng.random() < 0.6)
    return (picture * (1 - inner) + heart * inner) * (1 + 0.07 * spectral(rng, height, width, 0.6)[..., None])


def scales(rng: Rng, height: int, width: int) -> Field:
    """Draws overlapping rows of rounded scales, as on roofs and fish."""
    pitch = int(rng.integers(16, 30))
    y, x = grid(height, width)
    colours = palette(rng, 3)
    picture = np.zeros((height, width, 3), np.float32)
    for row in range(2 * height // pitch + 2, -2, -1):
        shift = x + row % 2 * pitch / 2
        distance = np.hypot((shift % pitch) - pitch / 2, y - row * pitch / 2) / (0.62 * pitch)
        tone = ramp(rng.random(width // pitch + 2, np.float32), colours[:2])[(shift // pitch).astype(int)]
        tone = tone * (1.1 - 0.5 * distance[..., None] ** 3)
        picture = np.where((distance < 1)[..., None] & (y >= row * pitch / 2 - 1)[..., None], tone, picture)
    return np.where(picture.sum(-1, keepdims=True) == 0, colours[2], picture)


def glaze(rng: Rng, height: int, width: int) -> Field:
    """Draws soft patches of colour that run into each other, warped."""
    y, x = grid(height, width)
    bend = 0.12 * height * np.stack([spectral(rng, height, width, 2.2) for _ in range(2)])
    spots = rng.uniform(0, 1, (6, 2)) * (height, width)
    weight = np.stack([1 / (np.square(y + bend[0] - a) + np.square(x + bend[1] - b) + 60) ** 1.6 for a, b in spots], -1)
    return (weight / weight.sum(-1, keepdims=True)) @ palette(rng, 6)


Pattern = Callable[[Rng, int, int], Field]
PATTERNS: tuple[Pattern, ...] = (
    clouds, marble, pebbles, wood, tartan, knit, bricks, tiles, print_, fur, scales, glaze,
)  # fmt: skip


# ---- skins and backdrops -----------------------------------------------------------------------------------------


def other_pattern(rng: Rng, *used: Pattern) -> Pattern:
    """Returns a pattern that is not in ``used``."""
    return [pattern for pattern in PATTERNS if pattern not in used][rng.integers(len(PATTERNS) - len(used))]


def plain(colour: tuple[int, int, int]) -> Texture:
    """Returns a skin of one tile and one colour."""
    return np.full((8, 8, 3), colour, np.uint8)


def wrapped(rng: Rng, pattern: Pattern) -> Texture:
    """Draws a skin of two tiles that goes round a solid; the last columns fade into the first, so there is no seam."""
    seam = TILE // 5
    long = pattern(rng, TILE, 2 * TILE + seam)
    fade = np.linspace(0, 1, seam, dtype=np.float32)[None, :, None]
    long[:, :seam] = fade * long[:, :seam] + (1 - fade) * long[:, 2 * TILE :]
    return quantised(long[:, : 2 * TILE])


def patched(rng: Rng, *patterns: Pattern) -> Texture:
    """Draws a skin with one tile for each pattern."""
    return quantised(np.concatenate([pattern(rng, TILE, TILE) for pattern in patterns], 1))


def backdrop(rng: Rng) -> Texture:
    """Draws a wall, a floor, a cloth or a landscape, calm enough for objects to stand out; ``[GROUND, GROUND, 3]``."""
    if rng.random() < 0.35:
        return quantised(landscape(rng))
    pattern = [clouds, marble, pebbles, wood, bricks, tiles, knit, glaze][rng.integers(8)]
    lab = to_lab(cv2.resize(pattern(rng, GROUND // 2, GROUND // 2), (GROUND, GROUND), interpolation=cv2.INTER_CUBIC))
    mean = lab.reshape(-1, 3).mean(0)
    lab = mean * (1, 0.5, 0.5) + (lab - mean) * (0.45, 0.4, 0.4)
    lab[..., 0] += 7 * spectral(rng, GROUND, GROUND, 2.2) + 2 * spectral(rng, GROUND, GROUND, 0.6)
    return quantised(from_lab(lab))


def landscape(rng: Rng) -> Field:
    """Draws a sky with clouds over rows of hills, the far ones paler."""
    y, _ = grid(GROUND, GROUND)
    haze, sky, cloud, ground = palette(rng, 4) * 0.5 + np.array(
        [[95, 105, 115], [60, 90, 130], [115, 115, 115], [40, 50, 30]]
    )
    picture = ramp(np.clip(y / 300, 0, 1), np.stack([sky, haze]))
    cover = np.clip(spectral(rng, GROUND, GROUND, 1.7) - 0.4, 0, 1)[..., None]
    picture = picture * (1 - 0.7 * cover) + cloud * 0.7 * cover
    for near in np.linspace(0, 1, int(rng.integers(2, 5)) + 1)[1:]:
        crest = 150 + 190 * near + 22 * spectral(rng, 2, GROUND, 1.6)[0] * (1.2 - 0.5 * near)
        hill = (haze * (1 - near) + ground * near) * (1 + 0.12 * spectral(rng, GROUND, GROUND, 0.9))[..., None]
        picture = np.where((y > crest[None])[..., None], hill, picture)
    return picture
