"""Draws motions: splines, bounces, swings, arcs. Every curve is a function of time, for any number of frames.

A curve is ``[F, 3]``: x to the right and y down, in a scale of its own, and roll (radians, clockwise). ``placed`` fits
the positions into the frame.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from benchmarks.propagation.textures import Field, Rng

__all__ = ["CURVES", "catmull_rom", "placed"]


def catmull_rom(points: Field, time: Field) -> Field:
    """Returns the curve through all points, evenly spaced in time (0 to 1); ``[N, D]`` and ``[F]`` to ``[F, D]``."""
    before, after = 2 * points[:1] - points[1:2], 2 * points[-1:] - points[-2:-1]
    knots = np.concatenate([before, points, after])
    place = time * (len(points) - 1)
    start = np.minimum(place.astype(int), len(points) - 2)
    s = (place - start)[:, None]
    a, b, c, d = (knots[start + k] for k in range(4))
    return 0.5 * (2 * b + (c - a) * s + (2 * a - 5 * b + 4 * c - d) * s**2 + (3 * b - a - 3 * c + d) * s**3)


def wander(rng: Rng, time: Field) -> Field:
    """Moves through four points, mostly in one direction, leaning a little to both sides."""
    heading = rng.uniform(0, 2 * np.pi)
    line = np.linspace(0, 1, 4)[:, None] * [np.cos(heading), np.sin(heading), 0]
    return catmull_rom(line + rng.normal(0, 0.13, (4, 3)), time)


def drive(rng: Rng, time: Field) -> Field:
    """Moves sideways at varying speed, hardly up or down."""
    x = np.cumsum(rng.uniform(0.5, 1.5, 5)) * rng.choice([-1, 1])
    return catmull_rom(np.stack([x, rng.normal(0, 0.06, 5), rng.normal(0, 0.04, 5)], -1), time)


def bounce(rng: Rng, time: Field) -> Field:
    """Falls, and bounces off a floor to half the height."""
    fall, gravity = rng.uniform(0.35, 0.55), 2.0
    drop = 0.5 * gravity * fall**2
    after = np.maximum(time - fall, 0)
    rebound = np.abs(np.sqrt(gravity * drop) * after - 0.5 * gravity * after**2)
    height = np.where(time < fall, drop - 0.5 * gravity * time**2, rebound)
    aside = rng.choice([-1, 1]) * rng.uniform(0.2, 0.5)
    return np.stack([aside * time, -height, aside * time], -1)


def swing(rng: Rng, time: Field) -> Field:
    """Swings like a pendulum that hangs from above: from one side to the other and part of the way back."""
    angle = rng.choice([-1, 1]) * rng.uniform(0.45, 0.65) * np.cos(1.3 * np.pi * time)
    return np.stack([-np.sin(angle), np.cos(angle), angle], -1)


def arc(rng: Rng, time: Field) -> Field:
    """Moves along part of a circle, upright."""
    start, sweep = rng.uniform(0, 2 * np.pi), rng.choice([-1, 1]) * rng.uniform(1.6, 2.8)
    return np.stack([np.cos(start + sweep * time), np.sin(start + sweep * time), 0 * time], -1)


Curve = Callable[[Rng, Field], Field]
CURVES: dict[str, Curve] = {"wander": wander, "drive": drive, "bounce": bounce, "swing": swing, "arc": arc}


def placed(rng: Rng, track: Field, travel: float, margin: Field) -> Field:
    """Scales and moves a track ``[F, 2]`` so that its longer extent is ``travel`` and all of it keeps the margin.

    The travel is reduced if there is no room for it. All lengths are fractions of the frame; ``margin [2]`` is kept
    clear at the sides, and at top and bottom.
    """
    room = 1 - 2 * margin
    track = track - track.min(0)
    span = np.maximum(track.max(0), 1e-6)
    track = track * min(travel / span.max(), *(room / span))
    return margin + track + (room - track.max(0)) * rng.uniform(0.15, 0.85, 2)
