"""Intersects parallel rays with simple solids: ellipsoid, frustum, box, ring and card, each in its own unit space.

Space has x to the right, y down, z towards the viewer, and is seen along z without perspective. A solid takes rays
``origin + s * along`` and returns, for each ray, the largest ``s`` on its surface (-inf: missed), the normal there (not
normalised) and a place on its skin: number of the tile, and u and v of 0 to 1 within it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.propagation.textures import Field

__all__ = ["SOLIDS", "Hit", "Outline", "rotation", "stencil"]

Outline = NDArray[np.float32]  # [N, 2] corners, -1 to 1, x to the right and y down
MISS = -np.inf
STENCIL = 384


@dataclass(frozen=True)
class Hit:
    """Holds what N rays hit: ``s [N]``, ``normal [N, 3]``, ``tile [N]`` (int), ``u [N]``, ``v [N]``."""

    s: Field
    normal: Field
    tile: NDArray[np.intp]
    u: Field
    v: Field


def rotation(yaw: float, pitch: float, roll: float) -> Field:
    """Returns ``[3, 3]``: first yaw (about y, the front turns right), then pitch (the top comes nearer), then roll."""
    (cy, cp, cr), (sy, sp, sr) = np.cos([yaw, pitch, roll]), np.sin([yaw, pitch, roll])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_x = np.array([[1, 0, 0], [0, cp, sp], [0, -sp, cp]])
    about_z = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
    return (about_z @ about_x @ about_y).astype(np.float32)


def stencil(outline: Outline) -> NDArray[np.bool_]:
    """Returns the inside of a closed polygon, ``[STENCIL, STENCIL]`` over -1 to 1."""
    plane = np.zeros((STENCIL, STENCIL), np.uint8)
    corners = np.rint((outline * 0.5 + 0.5) * (STENCIL - 1)).astype(np.int32)
    return cv2.fillPoly(plane, [corners], 1).astype(bool)


def ellipsoid(origin: Field, along: Field, taper: float, shape: NDArray[np.bool_] | None) -> Hit:  # noqa: ARG001
    """Intersects the unit sphere: tile 0 is its front half, tile 1 its back half; u is longitude, v latitude."""
    a, b, c = along @ along, origin @ along, np.square(origin).sum(-1) - 1
    inside = b * b - a * c
    s = np.where(inside > 0, (-b + np.sqrt(np.maximum(inside, 0))) / a, MISS)
    point = origin + np.where(inside > 0, s, 0)[:, None] * along
    tile, u = _around(point)
    return Hit(s, point, tile, u, np.arcsin(np.clip(point[:, 1], -1, 1)) / np.pi + 0.5)


def frustum(origin: Field, along: Field, taper: float, shape: NDArray[np.bool_] | None) -> Hit:  # noqa: ARG001
    """Intersects a frustum of radius 1 at y = 1 and ``taper`` at the top: tiles are front, back and the two ends."""
    middle, slope = (1 + taper) / 2, (1 - taper) / 2
    x, y, z = origin.T
    dx, dy, dz = along
    radius = middle + slope * y
    a = dx * dx + dz * dz - (slope * dy) ** 2
    a = a if abs(a) > 1e-6 else 1e-6
    b, c = x * dx + z * dz - slope * dy * radius, x * x + z * z - radius * radius
    root = np.sqrt(np.maximum(b * b - a * c, 0))
    dy = dy if abs(dy) > 1e-6 else 1e-6
    candidates = np.stack([(-b + root) / a, (-b - root) / a, (-1 - y) / dy, (1 - y) / dy])
    at_y = y + candidates * dy
    at = np.square(x + candidates * dx) + np.square(z + candidates * dz)
    valid = np.stack([(b * b > a * c) & (np.abs(at_y[k]) <= 1) & (middle + slope * at_y[k] >= 0) for k in (0, 1)])
    caps = np.stack([at[2] <= taper**2, at[3] <= 1])
    candidates = np.where(np.concatenate([valid, caps]), candidates, MISS)
    which = candidates.argmax(0)
    s = candidates.max(0)
    point = origin + np.where(np.isfinite(s), s, 0)[:, None] * along
    tile, u = _around(point)
    side = which < 2
    normal = np.stack([point[:, 0], -slope * np.hypot(point[:, 0], point[:, 2]), point[:, 2]], -1)
    normal = np.where(side[:, None], normal, np.array([0, 1, 0]) * np.where(which == 2, -1, 1)[:, None])
    u, v = np.where(side, u, point[:, 0] / 2 + 0.5), np.where(side, point[:, 1], point[:, 2]) / 2 + 0.5
    return Hit(s, normal, np.where(side, tile, which), u, v)


def box(origin: Field, along: Field, taper: float, shape: NDArray[np.bool_] | None) -> Hit:  # noqa: ARG001
    """Intersects the cube of -1 to 1: tiles are front, right, back, left, top, bottom."""
    along = np.where(np.abs(along) < 1e-6, 1e-6, along)
    sign = np.sign(along)
    leave, enter = (sign - origin) / along, (-sign - origin) / along
    axis, s = leave.argmin(1), leave.min(1)
    s = np.where(s > enter.max(1), s, MISS)
    x, y, z = (origin + np.where(np.isfinite(s), s, 0)[:, None] * along).T
    normal = np.eye(3)[axis] * sign[axis][:, None]
    faces = np.array([[1, 3], [5, 4], [0, 2]])[axis, (sign[axis] < 0).astype(int)]
    u = np.choose(faces, [x, -z, -x, z, x, x]) / 2 + 0.5
    return Hit(s, normal, faces, u, np.where(axis == 1, z, y) / 2 + 0.5)


def ring(origin: Field, along: Field, taper: float, shape: NDArray[np.bool_] | None) -> Hit:  # noqa: ARG001
    """Intersects a torus about z of radius 1 and thickness ``taper``, by stepping along the distance field."""
    norm = float(np.linalg.norm(along))
    s = np.full(len(origin), (1 + taper) / norm, np.float32) - (origin @ along) / norm**2
    for _ in range(28):
        x, y, z = (origin + s[:, None] * along).T
        distance = np.hypot(np.hypot(x, y) - 1, z) - taper
        s = s - distance / norm
    point = origin + s[:, None] * along
    round_ = np.hypot(point[:, 0], point[:, 1])
    axis = point * np.array([1, 1, 0]) / np.maximum(round_, 1e-6)[:, None]
    u = np.abs(np.arctan2(point[:, 1], point[:, 0])) / np.pi
    v = np.abs(np.arctan2(point[:, 2], round_ - 1)) / np.pi
    return Hit(np.where(distance < 0.02, s, MISS), point - axis, np.zeros(len(s), int), u, v)


def card(origin: Field, along: Field, taper: float, shape: NDArray[np.bool_] | None) -> Hit:  # noqa: ARG001
    """Intersects the plane z = 0 within a stencil: tile 0 is its front, tile 1 its back."""
    assert shape is not None
    toward = along[2] if abs(along[2]) > 1e-4 else 1e-4
    s = -origin[:, 2] / toward
    x, y, _ = (origin + s[:, None] * along).T
    row, column = (np.clip((axis / 2 + 0.5) * STENCIL, 0, STENCIL - 1).astype(int) for axis in (y, x))
    met = shape[row, column] & (np.abs(x) < 1) & (np.abs(y) < 1)
    back = toward < 0
    normal = np.broadcast_to(np.array([0, 0, np.sign(toward)]), origin.shape)
    u = (-x if back else x) / 2 + 0.5
    return Hit(np.where(met, s, MISS), normal, np.full(len(s), int(back)), u, y / 2 + 0.5)


def _around(point: Field) -> tuple[NDArray[np.intp], Field]:
    """Returns tile (0 front, 1 back) and u of points round the y axis."""
    longitude = np.arctan2(point[:, 0], point[:, 2]) + np.pi / 2
    tile = (longitude >= np.pi) | (longitude < 0)
    return tile.astype(np.intp), (longitude % np.pi) / np.pi


Solid = Callable[[Field, Field, float, NDArray[np.bool_] | None], Hit]
SOLIDS: dict[str, Solid] = {"ellipsoid": ellipsoid, "frustum": frustum, "box": box, "ring": ring, "card": card}
