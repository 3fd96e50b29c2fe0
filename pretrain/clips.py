"""Draws procedural clips: textured objects that move, turn, scale and hide each other over a background.

A :class:`Scene` holds everything as plain arrays, so the same motion can be rendered twice with another appearance:
that is an edit whose true result is known.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from pretrain.textures import TEXTURE_SIZE, Image, Rng, Texture, colour_name, noise, texture

Array = NDArray[np.float32]

MAX_FRAMES = 33
SHAPES = ("ball", "box", "star", "blob", "tile")


@dataclass(frozen=True)
class Part:
    """Describes one rigid sprite of an object.

    Attributes:
        texture: its surface.
        alpha: silhouette, float32 ``[S, S]`` in [0, 1].
        shade: light and shadow, float32 ``[S, S]`` around 1.
        offset: centre in the object's unit coordinates (x right, y down).
        size: width and height in the same unit.
        pivot: the point, in sprite units, about which it swings.
        swing: amplitude (radians), cycles per frame, and phase of its swing.
        turn: turns of its texture round a vertical axis per frame; 0 is a flat sprite.
    """

    texture: Texture
    alpha: Array
    shade: Array
    offset: tuple[float, float] = (0.0, 0.0)
    size: tuple[float, float] = (1.0, 1.0)
    pivot: tuple[float, float] = (0.0, 0.0)
    swing: tuple[float, float, float] = (0.0, 0.0, 0.0)
    turn: float = 0.0


@dataclass(frozen=True)
class Thing:
    """Holds parts that move together. ``path`` is ``[MAX_FRAMES, 4]``: x, y, scale (of the frame's height), angle."""

    name: str
    parts: tuple[Part, ...]
    path: Array


@dataclass(frozen=True)
class Scene:
    """Holds a background, its camera path ``[MAX_FRAMES, 3]`` (x, y, zoom), and objects from back to front."""

    background: Image
    camera: Array
    things: tuple[Thing, ...]
    light: Array
    grain: float
    caption: str


@dataclass(frozen=True)
class Rendered:
    """Holds a clip, uint8 ``[F, H, W, 3]``, and the visibility of the first object, float32 ``[F, H, W]``, 0 to 1."""

    frames: Image
    visible: Array


# ---- silhouettes -------------------------------------------------------------------------------------------------


def silhouette(rng: Rng, shape: str, size: int = TEXTURE_SIZE) -> Array:
    """Draws an antialiased silhouette, float32 ``[size, size]`` in [0, 1]."""
    y, x = (np.mgrid[0:size, 0:size].astype(np.float32) + 0.5) / size * 2 - 1
    radius, angle = np.hypot(x, y), np.arctan2(y, x)
    if shape == "ball":
        outline = np.full_like(radius, 0.92)
    elif shape == "star":
        outline = 0.7 + rng.uniform(0.1, 0.22) * np.cos(angle * int(rng.integers(3, 7)) + rng.uniform(0, 6.3))
    elif shape == "blob":
        outline = np.full_like(radius, 0.72)
        for order in range(2, 6):
            outline += rng.normal() * 0.22 / order * np.cos(order * angle + rng.uniform(0, 6.3))
        outline = np.minimum(outline, 0.95)
    else:  # box, tile: a rounded rectangle
        power = 8.0 if shape == "box" else 4.0
        aspect = rng.uniform(0.6, 1.0)
        radius = (np.abs(x / aspect) ** power + np.abs(y) ** power) ** (1 / power)
        outline = np.full_like(radius, 0.9)
    return np.clip((outline - radius) * size / 2 + 0.5, 0, 1).astype(np.float32)


def capsule(size: int = TEXTURE_SIZE) -> Array:
    """Draws a vertical rounded bar that fills its square (the part's size stretches it)."""
    y, x = (np.mgrid[0:size, 0:size].astype(np.float32) + 0.5) / size * 2 - 1
    radius = (np.abs(x) ** 2.5 + np.abs(y) ** 6) ** (1 / 3)
    return np.clip((0.97 - radius) * size / 2 + 0.5, 0, 1).astype(np.float32)


def shading(rng: Rng, size: int = TEXTURE_SIZE) -> Array:
    """Draws a shading that is flat half of the time, and brighter on one side otherwise."""
    if rng.random() < 0.5:
        return np.ones((size, size), np.float32)
    y, x = np.mgrid[0:size, 0:size].astype(np.float32) / size * 2 - 1
    angle = rng.uniform(0, 2 * np.pi)
    return (1 + rng.uniform(0.1, 0.35) * (np.cos(angle) * x + np.sin(angle) * y)).astype(np.float32)


# ---- motion ------------------------------------------------------------------------------------------------------


def smooth_path(rng: Rng, speed: float, wobble: float) -> Array:
    """Draws a smooth displacement over time, ``[MAX_FRAMES]``: a straight line plus a slow wave, 0 at frame 0."""
    time = np.arange(MAX_FRAMES, dtype=np.float32)
    wave = wobble * np.sin(2 * np.pi * time / rng.uniform(14, 40) + rng.uniform(0, 6.3))
    path = rng.uniform(-speed, speed) * time + wave
    return (path - path[0]).astype(np.float32)


def thing_path(rng: Rng, size: float, upright: bool) -> Array:
    """Draws position, scale and angle of an object over time; it spends most of the clip inside the frame."""
    still = rng.random() < 0.1
    speed, wobble = (0.0, 0.01) if still else (0.028, rng.uniform(0, 0.09))
    x = smooth_path(rng, speed, wobble)
    y = smooth_path(rng, speed * (0.3 if upright else 0.8), wobble * 0.6)
    x = x - x[: MAX_FRAMES // 2].mean() + rng.uniform(0.25, 0.75)
    y = y - y[: MAX_FRAMES // 2].mean() + rng.uniform(0.35, 0.65)
    grow = 1.0 if rng.random() < 0.5 else 0.0
    scale = size * np.exp(grow * np.clip(smooth_path(rng, 0.02, 0.08), -0.5, 0.5))
    spin = 0.0 if upright or rng.random() < 0.4 else 0.07
    angle = smooth_path(rng, spin, rng.uniform(0, 0.15)) + (0 if upright else rng.uniform(-0.4, 0.4))
    return np.stack([x, y, scale, angle], 1).astype(np.float32)


# ---- things ------------------------------------------------------------------------------------------------------


def simple_thing(rng: Rng, photos: tuple[Image, ...], size: float) -> Thing:
    """Draws one silhouette with one texture; some turn round their vertical axis, some carry a smaller part."""
    shape = str(rng.choice(SHAPES))
    skin = texture(rng, photos, 0.25)
    turn = float(rng.uniform(-0.03, 0.03)) if rng.random() < 0.2 else 0.0
    parts = [Part(skin, silhouette(rng, shape), shading(rng), turn=turn)]
    if rng.random() < 0.35:
        spot = texture(rng, photos, 0.1)
        width = rng.uniform(0.25, 0.5)
        offset = (rng.uniform(-0.25, 0.25), rng.uniform(-0.45, 0.1))
        parts.append(Part(spot, silhouette(rng, str(rng.choice(SHAPES))), shading(rng), offset, (width, width)))
    return Thing(f"{skin.words} {shape}", tuple(parts), thing_path(rng, size, upright=False))


def person(rng: Rng, photos: tuple[Image, ...], size: float) -> Thing:
    """Draws a walking figure of capsules: legs and arms swing, the head has its own colour, some wear a hat."""
    coat, trousers = texture(rng, photos, 0.15), texture(rng, photos, 0.1)
    skin = Texture(np.full((TEXTURE_SIZE, TEXTURE_SIZE, 3), rng.choice([60, 120, 190, 220]), np.uint8), "skin")
    tone = np.clip(skin.image * np.array([1.0, 0.82, 0.7]), 0, 255).astype(np.uint8)
    skin = replace(skin, image=tone)
    pace, reach, phase = rng.uniform(0.05, 0.12), rng.uniform(0.2, 0.5), rng.random()
    bar, round_ = capsule(), silhouette(rng, "ball")

    def limb(skin: Texture, x: float, y: float, size: tuple[float, float], reach: float, phase: float) -> Part:
        return Part(skin, bar, shading(rng), (x, y), size, pivot=(0.0, -0.5), swing=(reach, pace, phase))

    parts = [
        limb(trousers, -0.04, 0.27, (0.17, 0.48), reach, phase),
        limb(coat, -0.06, -0.05, (0.11, 0.38), reach, phase + 0.5),
        limb(trousers, 0.04, 0.27, (0.17, 0.48), reach, phase + 0.5),
        Part(coat, bar, shading(rng), (0.0, -0.1), (rng.uniform(0.28, 0.4), 0.48)),
        limb(coat, 0.06, -0.05, (0.11, 0.38), reach, phase),
        Part(skin, round_, shading(rng), (0.0, -0.41), (0.17, 0.2)),
    ]
    words = f"person in a {coat.words} coat"
    if rng.random() < 0.4:
        hat = texture(rng, photos, 0.05)
        parts.append(Part(hat, capsule(), shading(rng), (0.0, -0.49), (rng.uniform(0.17, 0.28), 0.09)))
        words += f" and a {colour_name(hat.image)} hat"
    return Thing(words, tuple(parts), thing_path(rng, size * 1.35, upright=True))


def sample_scene(rng: Rng, photos: tuple[Image, ...]) -> Scene:
    """Draws a scene with its caption: background, camera, one to three objects, light and grain."""
    ground = texture(rng, photos, 0.7, size=192)
    if rng.random() < 0.5:
        camera = np.zeros((MAX_FRAMES, 3), np.float32)
    else:
        pans = [smooth_path(rng, 0.012, rng.uniform(0, 0.05)) for _ in range(2)]
        camera = np.stack([*pans, smooth_path(rng, 0.006, 0.02)], 1)
    count = int(rng.choice([1, 2, 3], p=[0.6, 0.3, 0.1]))
    things = []
    for index in range(count):
        size = rng.uniform(0.35, 0.7) if index == 0 else rng.uniform(0.15, 0.45)
        make = person if rng.random() < 0.35 else simple_thing
        things.append(make(rng, photos, float(size)))
    drift = smooth_path(rng, 0.006, 0.03) if rng.random() < 0.2 else np.zeros(MAX_FRAMES, np.float32)
    grain = float(rng.uniform(0.5, 2.0)) if rng.random() < 0.3 else 0.0
    caption = "a " + " and a ".join(thing.name for thing in things) + f" over a {ground.words} background"
    return Scene(ground.image, camera, tuple(things), 1 + drift, grain, caption)


# ---- rendering ---------------------------------------------------------------------------------------------------


def _sprite(part: Part, frame: int, pixels: tuple[int, int]) -> Array:
    """Returns the part's premultiplied RGBA at its display size, float32 ``[h, w, 4]``, RGB 0 to 255."""
    image = part.texture.image
    if part.turn:
        side = image.shape[0]
        column = (np.arange(side, dtype=np.float32) + 0.5) / side * 2 - 1
        longitude = np.arcsin(np.clip(column, -1, 1)) / np.pi + part.turn * frame
        around = np.abs((longitude % 2) - 1)  # mirrored, so the seam does not show
        image = image[:, np.minimum((around * side).astype(int), side - 1)]
    rgb = image.astype(np.float32) * part.shade[..., None]
    rgba = np.concatenate([rgb * part.alpha[..., None], part.alpha[..., None]], -1)
    return cv2.resize(rgba, pixels, interpolation=cv2.INTER_AREA)


def _placement(part: Part, pose: Array, frame: int, sprite: tuple[int, int], height: int, width: int) -> Array:
    """Returns the 2x3 affine map from sprite pixels to frame pixels."""
    x, y, scale, angle = pose
    amplitude, pace, phase = part.swing
    local = amplitude * np.sin(2 * np.pi * (pace * frame + phase))
    unit = scale * height

    def matrix(a: float, tx: float, ty: float) -> Array:
        return np.array([[np.cos(a), -np.sin(a), tx], [np.sin(a), np.cos(a), ty], [0, 0, 1]], np.float32)

    hinge = (part.pivot[0] * part.size[0], part.pivot[1] * part.size[1])
    swung = matrix(local, *hinge) @ matrix(0, -hinge[0], -hinge[1])
    to_unit = np.diag([part.size[0] / sprite[0], part.size[1] / sprite[1], 1.0]) @ matrix(
        0, 0.5 - sprite[0] / 2, 0.5 - sprite[1] / 2
    )
    placed = matrix(angle, 0, 0) @ matrix(0, *part.offset) @ swung @ to_unit
    to_frame = matrix(0, x * width - 0.5, y * height - 0.5) @ np.diag([unit, unit, 1.0])
    return (to_frame @ placed)[:2].astype(np.float32)


def _draw(thing: Thing, frame: int, height: int, width: int, cache: dict[int, Array]) -> Array:
    """Draws all parts of an object in one frame: premultiplied RGBA, float32 ``[H, W, 4]``."""
    canvas = np.zeros((height, width, 4), np.float32)
    for index, part in enumerate(thing.parts):
        if part.turn or index not in cache:
            unit = float(thing.path[:, 2].max()) * height
            pixels = (max(2, round(part.size[0] * unit)), max(2, round(part.size[1] * unit)))
            cache[index] = _sprite(part, frame, pixels)
        sprite = cache[index]
        affine = _placement(part, thing.path[frame], frame, (sprite.shape[1], sprite.shape[0]), height, width)
        layer = cv2.warpAffine(sprite, affine, (width, height), flags=cv2.INTER_LINEAR)
        canvas = layer + canvas * (1 - layer[..., 3:])
    return canvas


def _ground(scene: Scene, frame: int, height: int, width: int) -> Array:
    """Draws the background as the camera sees it, float32 ``[H, W, 3]``; a margin of 15 % leaves room for the pan."""
    side = scene.background.shape[0]
    dx, dy, zoom = scene.camera[frame]
    scale = max(height, width) * 1.3 / side * np.exp(zoom)
    affine = np.array(
        [
            [scale, 0, width / 2 - scale * side / 2 - dx * width],
            [0, scale, height / 2 - scale * side / 2 - dy * height],
        ],
        np.float32,
    )
    flags = cv2.INTER_LINEAR
    small = scene.background
    if scale < 0.7:
        small = cv2.resize(small, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        affine[:, :2] = np.eye(2)
    return cv2.warpAffine(small, affine, (width, height), flags=flags, borderMode=cv2.BORDER_REFLECT).astype(np.float32)


def render(scene: Scene, frames: int, height: int, width: int, seed: int = 0) -> Rendered:
    """Renders the first ``frames`` frames. The same scene and seed give the same bytes."""
    grain = np.random.default_rng(seed)
    caches: list[dict[int, Array]] = [{} for _ in scene.things]
    clip = np.empty((frames, height, width, 3), np.uint8)
    visible = np.zeros((frames, height, width), np.float32)
    for frame in range(frames):
        picture = _ground(scene, frame, height, width)
        for index, thing in enumerate(scene.things):
            layer = _draw(thing, frame, height, width, caches[index])
            picture = layer[..., :3] + picture * (1 - layer[..., 3:])
            visible[frame] = layer[..., 3] if index == 0 else visible[frame] * (1 - layer[..., 3])
        picture = picture * scene.light[frame]
        if scene.grain:
            picture = picture + grain.normal(0, scene.grain, picture.shape).astype(np.float32)
        clip[frame] = np.clip(picture + 0.5, 0, 255)
    return Rendered(clip, visible)


# ---- edits with a known answer -----------------------------------------------------------------------------------


def recolour(rng: Rng, image: Image) -> Image:
    """Turns the hue, and sometimes swaps light for dark; the pattern stays."""
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    hsv[..., 0] = (hsv[..., 0].astype(int) + int(rng.integers(40, 140))) % 180
    hsv[..., 1] = np.clip(hsv[..., 1].astype(int) + 90, 0, 255)
    hsv[..., 2] = np.clip(hsv[..., 2].astype(float) * rng.choice([0.6, 1.4]), 20, 255)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)


EDITS = ("recolour", "retexture", "part", "swap")


def edited_twin(rng: Rng, scene: Scene, photos: tuple[Image, ...], kind: str) -> Scene:
    """Returns a scene with the same motion in which the first object looks different.

    Args:
        rng: generator of the change.
        scene: the scene before the edit.
        photos: photographs for textures.
        kind: ``recolour`` turns the hue of every part, ``retexture`` gives every part a new texture, ``part`` adds a
            part that changes the outline, ``swap`` puts another object on the same path.
    """
    first = scene.things[0]
    if kind == "part":
        side = str(rng.choice(("above", "beside")))
        offset = (
            (rng.uniform(-0.1, 0.1), -0.48) if side == "above" else (rng.choice((-0.45, 0.45)), rng.uniform(-0.3, 0.3))
        )
        size = (rng.uniform(0.25, 0.6), rng.uniform(0.2, 0.45))
        added = Part(texture(rng, photos, 0.15), silhouette(rng, str(rng.choice(SHAPES))), shading(rng), offset, size)
        return replace(scene, things=(replace(first, parts=(*first.parts, added)), *scene.things[1:]))
    if kind == "swap":
        make = person if rng.random() < 0.35 else simple_thing
        other = replace(make(rng, photos, 1.0), path=first.path)
        return replace(scene, things=(other, *scene.things[1:]))
    looks: dict[int, Texture] = {}
    for part in first.parts:
        old = part.texture
        if id(old) not in looks:
            new = replace(old, image=recolour(rng, old.image)) if kind == "recolour" else texture(rng, photos, 0.2)
            looks[id(old)] = new
    parts = tuple(replace(part, texture=looks[id(part.texture)]) for part in first.parts)
    return replace(scene, things=(replace(first, parts=parts), *scene.things[1:]))


def photo_pan(rng: Rng, photos: tuple[Image, ...], frames: int, height: int, width: int) -> Image:
    """Moves a camera over a photograph, or over noise if there are no photographs; uint8 ``[F, H, W, 3]``."""
    scene = sample_scene(rng, photos)
    ground = texture(rng, photos, 0.9, size=192).image
    if rng.random() < 0.2:
        ground = np.clip(ground * (0.5 + noise(rng, 192, 6, 1.0))[..., None], 0, 255).astype(np.uint8)
    return render(replace(scene, background=ground, things=()), frames, height, width).frames
