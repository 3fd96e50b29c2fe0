"""Draws objects (balls, mugs, parcels, cars, figures, lamps, tins, letters, leaves) and parts to add to them.

A builder draws an object's patterns and proportions and returns its parts, in units of about half its size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import cv2
import numpy as np

from benchmarks.propagation.render import Part, reach
from benchmarks.propagation.solids import Outline, stencil
from benchmarks.propagation.textures import PATTERNS, Rng, palette, patched, plain, quantised, wrapped

__all__ = ["ADDED", "THINGS", "extent"]

Parts = tuple[Part, ...]
UPRIGHT = (0.0, -np.pi / 2, 0.0)
"""The tilt that lays a frustum's axis along z."""


def extent(parts: Parts) -> float:
    """Returns the radius of a sphere about the object's origin that contains all parts."""
    return max(float(np.linalg.norm(part.centre)) + reach(part) for part in parts)


def _pattern(rng: Rng) -> Callable[..., np.ndarray]:
    return PATTERNS[rng.integers(len(PATTERNS))]


def _colour(rng: Rng) -> np.ndarray:
    """Draws a skin of one colour."""
    red, green, blue = (int(value) for value in quantised(palette(rng, 1))[0])
    return plain((red, green, blue))


# ---- things ------------------------------------------------------------------------------------------------------


def ball(rng: Rng) -> Parts:
    return (Part("ellipsoid", (1, rng.uniform(0.85, 1), 1), wrapped(rng, _pattern(rng))),)


def egg(rng: Rng) -> Parts:
    return (Part("ellipsoid", (rng.uniform(0.62, 0.75), 1, 0.68), wrapped(rng, _pattern(rng))),)


def tin(rng: Rng) -> Parts:
    skin = wrapped(rng, _pattern(rng))
    rim = plain((176, 180, 186))
    lids = [Part("frustum", (0.68, 0.05, 0.68), rim, (0, y, 0), main=False) for y in (-0.86, 0.86)]
    return Part("frustum", (0.65, 0.85, 0.65), skin), *lids


def mug(rng: Rng) -> Parts:
    return *cup(rng), handle(rng, _colour(rng))


def cup(rng: Rng) -> Parts:
    """Draws a mug without its handle."""
    body = Part("frustum", (0.66, 0.8, 0.66), wrapped(rng, _pattern(rng)), taper=rng.uniform(1.0, 1.15))
    drink = Part("frustum", (0.58 * body.taper, 0.02, 0.58 * body.taper), plain((64, 38, 22)), (0, -0.8, 0), main=False)
    return body, drink


def handle(rng: Rng, skin: np.ndarray) -> Part:
    """Draws a mug's handle, at its right."""
    return Part("ring", (0.42, 0.42, 0.42), skin, (0.76, 0, 0), taper=rng.uniform(0.2, 0.3), main=False)


def parcel(rng: Rng) -> Parts:
    pattern, other = _pattern(rng), _pattern(rng)
    skin = patched(rng, pattern, other, pattern, other, pattern, other)
    return (Part("box", (rng.uniform(0.65, 0.8), rng.uniform(0.5, 0.7), rng.uniform(0.55, 0.7)), skin),)


def car(rng: Rng) -> Parts:
    paint = wrapped(rng, _pattern(rng))
    tyre = np.concatenate([plain((38, 38, 42))] * 2 + [_hub(rng)] * 2, 1)
    wheels = [
        Part("frustum", (0.29, 0.09, 0.29), tyre, (x, 0.36, z), UPRIGHT, spin=5.0, main=False)
        for x in (-0.56, 0.56)
        for z in (-0.42, 0.42)
    ]
    window = Part("box", (0.37, 0.15, 0.385), plain((150, 190, 210)), (-0.08, -0.32, 0), main=False)
    return (
        Part("box", (1.0, 0.25, 0.44), paint, (0, 0.12, 0)),
        Part("box", (0.46, 0.28, 0.37), paint, (-0.08, -0.36, 0)),
        window,
        *wheels,
    )


def _hub(rng: Rng) -> np.ndarray:
    """Draws a wheel's face: a tyre and two spokes across it."""
    face = plain((38, 38, 42)).repeat(8, 0).repeat(8, 1).copy()
    cv2.circle(face, (32, 32), 21, (206, 206, 200), -1)
    cv2.line(face, (12, 32), (52, 32), tuple(int(v) for v in _colour(rng)[0, 0]), 9)
    return cv2.resize(face, (8, 8), interpolation=cv2.INTER_AREA)


def figure(rng: Rng) -> Parts:
    """Draws a skittle with a head and a nose."""
    coat = Part("frustum", (0.56, 0.6, 0.56), wrapped(rng, _pattern(rng)), (0, 0.35, 0), taper=0.45)
    head = Part("ellipsoid", (0.42, 0.42, 0.42), plain((228, 190, 156)), (0, -0.5, 0), main=False)
    nose = Part("frustum", (0.12, 0.2, 0.12), plain((214, 104, 52)), (0, -0.46, 0.5), (0, np.pi / 2, 0), taper=0.1)
    return coat, head, replace(nose, main=False)


def lamp(rng: Rng) -> Parts:
    shade = Part("frustum", (0.85, 0.46, 0.85), wrapped(rng, _pattern(rng)), (0, -0.4, 0), taper=0.5)
    stem = Part("frustum", (0.09, 0.42, 0.09), plain((150, 120, 70)), (0, 0.45, 0), main=False)
    foot = Part("frustum", (0.42, 0.08, 0.42), plain((150, 120, 70)), (0, 0.86, 0), taper=0.7, main=False)
    return shade, stem, foot


def letter(rng: Rng) -> Parts:
    """Draws a thick letter cut from printed board."""
    plane = np.zeros((200, 200), np.uint8)
    sign = str(rng.choice(list("BRKASE&")))
    cv2.putText(plane, sign, (30, 170), cv2.FONT_HERSHEY_SIMPLEX, 6.5, 255, 34)
    left, top, width, high = cv2.boundingRect(plane)
    side = max(width, high)
    square = np.zeros((side, side), np.uint8)
    at_y, at_x = (side - high) // 2, (side - width) // 2
    square[at_y : at_y + high, at_x : at_x + width] = plane[top : top + high, left : left + width]
    shape = cv2.resize(square, (384, 384), interpolation=cv2.INTER_LINEAR) > 127
    return (Part("card", (0.7, 0.7, 1), wrapped(rng, _pattern(rng)), shape=shape),)


def leaf(rng: Rng) -> Parts:
    """Draws a card with the outline of a superformula: leaves, flowers, starfish."""
    angle = np.linspace(0, 2 * np.pi, 240, endpoint=False)
    lobes, sharp = int(rng.integers(3, 7)), rng.uniform(0.7, 1.4)
    radius = (np.abs(np.cos(lobes * angle / 4)) ** 3 + np.abs(np.sin(lobes * angle / 4)) ** 3) ** (-1 / sharp)
    outline = np.stack([radius * np.cos(angle), radius * np.sin(angle)], -1)
    return (_cut(rng, outline),)


def scrap(rng: Rng) -> Parts:
    """Draws a card with a smooth random outline: a polygon whose corners are cut off repeatedly."""
    count = int(rng.integers(5, 9))
    angle = (np.arange(count) + rng.uniform(-0.3, 0.3, count)) * 2 * np.pi / count
    return (_cut(rng, _rounded(np.stack([np.cos(angle), np.sin(angle)], -1) * rng.uniform(0.6, 1, (count, 1)))),)


def _rounded(outline: Outline) -> Outline:
    """Smooths an outline by Chaikin's corner cutting."""
    for _ in range(4):
        after = np.roll(outline, -1, 0)
        outline = np.stack([0.75 * outline + 0.25 * after, 0.25 * outline + 0.75 * after], 1).reshape(-1, 2)
    return outline


def _cut(rng: Rng, outline: Outline) -> Part:
    """Draws a card in the form of an outline of any size."""
    return Part("card", (0.7, 0.7, 1), wrapped(rng, _pattern(rng)), shape=stencil(outline / np.abs(outline).max()))


Builder = Callable[[Rng], Parts]
THINGS: dict[str, Builder] = {
    build.__name__: build for build in (ball, egg, tin, mug, cup, parcel, car, figure, lamp, letter, leaf, scrap)
}


# ---- parts that can be added; all of them change the outline --------------------------------------------------------


def hat(rng: Rng) -> Parts:
    """Adds a top hat to a ball."""
    felt = wrapped(rng, _pattern(rng))
    crown = Part("frustum", (0.52, 0.42, 0.52), felt, (0, -1.18, 0), taper=rng.uniform(0.8, 1.1))
    return crown, Part("frustum", (0.86, 0.06, 0.86), _colour(rng), (0, -0.78, 0))


def handles(rng: Rng) -> Parts:
    """Adds a handle at each side of a cup."""
    right = handle(rng, _colour(rng))
    right = replace(right, taper=0.34)
    return right, replace(right, centre=(-0.76, 0, 0))


def sail(rng: Rng) -> Parts:
    """Adds a mast with a triangular sail to a car."""
    mast = Part("frustum", (0.06, 0.62, 0.06), plain((120, 84, 48)), (0, -1.1, 0))
    shape = stencil(np.array([[-0.95, 0.95], [0.2, -0.95], [0.95, 0.95]]))
    return mast, Part(
        "card", (0.72, 0.5, 1), patched(rng, _pattern(rng), _pattern(rng)), (0.0, -1.2, 0.08), shape=shape
    )


def bow(rng: Rng) -> Parts:
    """Adds a bow to the top of a parcel."""
    silk = _colour(rng)
    loops = [Part("ring", (0.27, 0.27, 0.27), silk, (x, -0.92, 0.1), taper=0.4) for x in (-0.36, 0.36)]
    return *loops, Part("ellipsoid", (0.2, 0.2, 0.2), silk, (0, -0.78, 0.15))


def wings(rng: Rng) -> Parts:
    """Adds two wings to the back of a figure."""
    outline = _rounded(np.array([[-1, 0.2], [-0.6, -0.9], [1, -1.1], [1.1, 0.2], [0.3, 0.2], [0.2, 1.1], [-0.8, 0.9]]))
    outline = np.clip(outline, -1, 1)
    skin = wrapped(rng, _pattern(rng))
    right = Part("card", (0.5, 0.62, 1), skin, (0.68, 0.12, -0.2), shape=stencil(outline))
    return right, replace(right, centre=(-0.68, 0.12, -0.2), shape=stencil(outline * (-1, 1)))


ADDED: dict[str, Builder] = {"ball": hat, "cup": handles, "car": sail, "parcel": bow, "figure": wings}
"""Builders of added parts, by the object to which they belong."""
