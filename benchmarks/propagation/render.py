"""Renders a scene: objects made of solids, which turn, in front of a backdrop under a moving camera.

Every frame is drawn at twice its size and scaled down by averaging. Objects lie in layers, the first one farthest away;
within an object the nearest surface is visible. The same scene gives the same bytes.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.propagation.solids import SOLIDS, rotation
from benchmarks.propagation.textures import Field, Texture
from loraedit.types import Frames, Weights

__all__ = ["Part", "Rendered", "Scene", "Thing", "reach", "render", "silhouette"]

OVERSAMPLING = 2
AMBIENT, DIFFUSE = 0.42, 0.68
LIGHT = np.array([-0.42, -0.6, 0.68], np.float32)


@dataclass(frozen=True)
class Part:
    """Describes one solid of an object.

    Attributes:
        solid: a name in ``SOLIDS``.
        size: half its width, height and depth, in the object's unit.
        skin: tiles side by side, ``[S, k * S, 3]``; a solid with more sides than tiles uses them in turn.
        centre: x, y, z in the object's unit.
        tilt: yaw, pitch, roll within the object.
        spin: how far it turns about its own y axis over the clip, radians.
        taper: radius of a frustum's top, thickness of a ring.
        shape: stencil of a card, bool.
        main: True if an edit of the object's look changes this part.
        edited: True if this part was edited.
    """

    solid: str
    size: tuple[float, float, float]
    skin: Texture
    centre: tuple[float, float, float] = (0.0, 0.0, 0.0)
    tilt: tuple[float, float, float] = (0.0, 0.0, 0.0)
    spin: float = 0.0
    taper: float = 1.0
    shape: NDArray[np.bool_] | None = field(default=None, repr=False)
    main: bool = True
    edited: bool = False


@dataclass(frozen=True)
class Thing:
    """Holds parts that move as one.

    Attributes:
        parts: in any order.
        path: ``[F, 6]``: x and y (0 to 1 across and down the frame), unit (of the frame's shorter side), yaw, pitch,
            roll.
    """

    parts: tuple[Part, ...]
    path: Field


@dataclass(frozen=True)
class Scene:
    """Describes a scene.

    Attributes:
        backdrop: what lies behind all objects.
        camera: ``[F, 3]``: x and y of the window's centre and its side, as fractions of the backdrop.
        things: the objects from back to front.
        edited_thing: index of the object that is edited.
    """

    backdrop: Texture
    camera: Field
    things: tuple[Thing, ...]
    edited_thing: int = 0


@dataclass(frozen=True)
class Rendered:
    """Holds a clip ``[F, H, W, 3]`` and the coverage of its objects, 0 to 1.

    Attributes:
        visible: ``[T, F, H, W]``, the visible part of each object.
        amodal: ``[T, F, H, W]``, the whole object, as if nothing stood before it.
        edited: ``[F, H, W]``, where edited parts are visible.
    """

    frames: Frames
    visible: Weights
    amodal: Weights
    edited: Weights


def render(scene: Scene, height: int, width: int) -> Rendered:
    """Renders all frames of a scene."""
    frames, things = len(scene.camera), len(scene.things)
    clip = np.empty((frames, height, width, 3), np.uint8)
    visible, amodal = np.zeros((2, things, frames, height, width), np.float32)
    edited = np.zeros((frames, height, width), np.float32)
    for index in range(frames):
        picture = _window(scene.backdrop, scene.camera[index], height, width)
        for layer, thing in enumerate(scene.things):
            drawn = draw(thing, index, height, width)
            alpha = drawn[..., 3]
            visible[:, index] *= 1 - alpha
            edited[index] = edited[index] * (1 - alpha) + drawn[..., 4]
            visible[layer, index] = amodal[layer, index] = alpha
            picture = picture * (1 - alpha[..., None]) + drawn[..., :3]
        clip[index] = np.clip(picture + 0.5, 0, 255)
    return Rendered(clip, visible, amodal, edited)


def draw(thing: Thing, frame: int, height: int, width: int) -> Field:
    """Draws one frame of an object, ``[H, W, 5]``: premultiplied RGB of 0 to 255, coverage, and edited coverage."""
    tall, wide = height * OVERSAMPLING, width * OVERSAMPLING
    canvas = np.zeros((tall, wide, 5), np.float32)
    depth = np.full((tall, wide), -np.inf, np.float32)
    for part in thing.parts:
        _draw_part(part, thing.path, frame, canvas, depth)
    return cv2.resize(canvas, (width, height), interpolation=cv2.INTER_AREA)


def silhouette(thing: Thing, frame: int, side: int) -> Weights:
    """Draws the whole object alone in a square frame, ``[side, side]``, 0 to 1."""
    return draw(thing, frame, side, side)[..., 3]


def reach(part: Part) -> float:
    """Returns the radius of a sphere about the part's centre that contains it, in the object's unit."""
    width, height, depth = part.size
    if part.solid == "ring":
        return width * (1 + part.taper)
    if part.solid == "frustum":
        return float(np.hypot(max(width, depth) * max(1.0, part.taper), height))
    return max(part.size) if part.solid == "ellipsoid" else float(np.linalg.norm(part.size))


def half_box(part: Part) -> Field:
    """Returns half the sides of a box along the part's own axes that contains it, ``[3]``, in the object's unit."""
    wider = {
        "ring": (1 + part.taper, 1 + part.taper, part.taper),
        "frustum": (max(1, part.taper), 1, max(1, part.taper)),
    }
    return np.array(part.size, np.float32) * wider.get(part.solid, (1, 1, 1))


def _draw_part(part: Part, path: Field, frame: int, canvas: Field, depth: Field) -> None:
    """Draws one part over what lies behind it; changes canvas and depth (in pixels of the canvas)."""
    tall, wide = depth.shape
    x, y, unit, *turn = path[frame].tolist()
    whole = rotation(*turn)
    spin = part.spin * frame / max(len(path) - 1, 1)
    own = whole @ rotation(*part.tilt) @ rotation(spin, 0, 0)
    unit *= min(tall, wide)
    centre = np.array([x * wide, y * tall, 0], np.float32) + unit * (whole @ np.array(part.centre, np.float32))
    half = np.abs(own[:2]) @ (unit * half_box(part)) + 2
    left, top = (max(0, int(centre[axis] - half[axis])) for axis in (0, 1))
    right, bottom = (min(int(centre[axis] + half[axis]) + 1, limit) for axis, limit in ((0, wide), (1, tall)))
    if left >= right or top >= bottom:
        return
    rows, columns = np.mgrid[top:bottom, left:right].reshape(2, -1)
    from_centre = np.stack([columns + 0.5 - centre[0], rows + 0.5 - centre[1], np.full(len(rows), -centre[2])], -1)
    scale = unit * np.array(part.size, np.float32)
    hit = SOLIDS[part.solid]((from_centre @ own / scale).astype(np.float32), own[2] / scale, part.taper, part.shape)
    near = hit.s > depth[rows, columns]
    rows, columns = rows[near], columns[near]
    normal = hit.normal[near] / scale @ own.T
    light = normal @ LIGHT / np.maximum(np.linalg.norm(normal, axis=-1), 1e-9)
    colour = _look_up(part.skin, hit.tile[near], hit.u[near], hit.v[near])
    depth[rows, columns] = hit.s[near]
    canvas[rows, columns, :3] = colour * (AMBIENT + DIFFUSE * np.maximum(light, 0))[:, None]
    canvas[rows, columns, 3] = 1
    canvas[rows, columns, 4] = part.edited


def _look_up(skin: Texture, tile: NDArray[np.intp], u: Field, v: Field) -> Field:
    """Looks up the colours of N places on a skin, ``[N, 3]``; never across the edge of a tile."""
    side = skin.shape[0]
    tiles = skin.shape[1] // side
    x, y = (np.clip(axis * side - 0.5, 0, side - 1) for axis in (u, v))
    x = x + side * (tile % tiles)
    if not len(x):
        return np.zeros((0, 3), np.float32)
    line = [axis.astype(np.float32).reshape(1, -1) for axis in (x, y)]
    parts = [
        cv2.remap(skin, *(axis[:, k : k + 30000] for axis in line), cv2.INTER_LINEAR) for k in range(0, len(x), 30000)
    ]
    return np.concatenate(parts, 1)[0].astype(np.float32)


def _window(backdrop: Texture, camera: Field, height: int, width: int) -> Field:
    """Returns what the camera sees of the backdrop, ``[H, W, 3]`` of 0 to 255."""
    x, y, side = camera * backdrop.shape[0]
    step = side / (min(height, width) * OVERSAMPLING)
    tall, wide = height * OVERSAMPLING, width * OVERSAMPLING
    affine = np.array([[step, 0, x + step * (1 - wide) / 2], [0, step, y + step * (1 - tall) / 2]], np.float64)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    seen = cv2.warpAffine(backdrop, affine, (wide, tall), flags=flags, borderMode=cv2.BORDER_REFLECT_101)
    return cv2.resize(seen, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32)
