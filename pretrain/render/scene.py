"""Scenes: a background under a camera, and layers of objects from back to front, drawn as a batch."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from pretrain.render.dice import Dice
from pretrain.render.lighting import Light, draw_light
from pretrain.render.motion import Camera, Pose, moving_camera, moving_pose, riding, seen_by
from pretrain.render.shape import Shape
from pretrain.render.silhouettes import OUTLINES, Metaballs, bars, outlines
from pretrain.render.solids import SOLIDS, turning
from pretrain.render.textures import Textures, draw_textures, plain_textures, quarters
from pretrain.render.walkers import Walker

__all__ = ["FORMS", "Layer", "Mix", "Scene", "Studio", "draw_form", "draw_part", "draw_scene", "dressed"]

FORMS = {
    **dict.fromkeys(OUTLINES, 0.09), "drops": 0.08, "ball": 0.16, "box": 0.13, "can": 0.09, "person": 0.28,
}  # fmt: skip
"""How often an object is of which form."""


@dataclass(frozen=True)
class Mix:
    """How often a scene has what.

    Attributes:
        camera: a moving camera.
        ground_photo: a photograph as background.
        object_photo: a piece of a photograph on an object.
        hero: an object at all.
        behind: a second object, behind the first.
        before: something in front of the first object.
        part: a part fixed to the first object.
        shadow: shadows.
    """

    camera: float = 0.6
    ground_photo: float = 0.6
    object_photo: float = 0.25
    hero: float = 1.0
    behind: float = 0.35
    before: float = 0.3
    part: float = 0.3
    shadow: float = 0.4


@dataclass(frozen=True)
class Layer:
    """Objects of one kind in some of a batch's scenes.

    Attributes:
        role: ``behind``, ``hero``, ``part`` or ``before``.
        form: a name in ``FORMS``, or ``bar``.
        rows: which scenes, int64 ``[n]`` on the host.
        shape: their form.
        pose: their place over time.
        shadow: strength of their shadow, ``[n]``, or None.
        shadow_at: where it falls, in parts of the frame's shorter side.
        textures: ``[n, 3, S, S]``; :func:`dressed` draws them.
        words: for the caption, one each, such as "red striped ball".
    """

    role: str
    form: str
    rows: Tensor
    shape: Shape
    pose: Pose
    shadow: Tensor | None = None
    shadow_at: tuple[float, float] = (0.0, 0.0)
    textures: Tensor = field(default_factory=lambda: torch.empty(0))
    words: tuple[str, ...] = ()


@dataclass(frozen=True)
class Scene:
    """A batch of scenes.

    Attributes:
        ground: backgrounds.
        extent: how many screen units the background's texture spans, ``[B]``.
        camera: over time.
        layers: from back to front.
        light: over time.
    """

    ground: Textures
    extent: Tensor
    camera: Camera
    layers: tuple[Layer, ...]
    light: Light

    @property
    def count(self) -> int:
        return len(self.extent)

    @property
    def frames(self) -> int:
        return self.camera.x.shape[1]


@dataclass(frozen=True)
class Studio:
    """What all objects of a batch are drawn with.

    Attributes:
        dice: everything random.
        photos: uint8 ``[N, 3, P, P]`` on the device; may be empty.
        mix: how often a scene has what.
        frames: of a clip.
        height: of a frame, in pixels.
        width: likewise.
    """

    dice: Dice
    photos: Tensor
    mix: Mix
    frames: int
    height: int
    width: int

    @property
    def side(self) -> int:
        """Side of an object's texture in pixels: the power of two that the shorter side fits into."""
        return 2 ** math.ceil(math.log2(min(self.height, self.width)))

    @property
    def reach(self) -> tuple[float, float]:
        """How far from the frame's centre the middle of an object's path may lie."""
        aspect = self.width / self.height
        return 0.45 * max(1.0, aspect), 0.35 * max(1.0, 1 / aspect)


def draw_scene(studio: Studio, count: int) -> Scene:
    """Draws a batch of scenes."""
    dice, mix, frames = studio.dice, studio.mix, studio.frames
    camera = moving_camera(dice, count, frames, mix.camera)
    layers: list[Layer] = []
    everyone = torch.arange(count)
    for role, share in (("behind", mix.behind), ("hero", mix.hero), ("part", mix.part), ("before", mix.before)):
        rows = everyone[dice.pick([1 - share, share], count) == 1]
        if role == "part":
            layers += draw_part(studio, [layer for layer in layers if layer.role == "hero"], rows)
        elif len(rows):
            layers += draw_objects(studio, role, rows, camera)
    ground = draw_textures(dice, count, 2 * studio.side, studio.photos, mix.ground_photo)
    long = max(studio.height, studio.width) / min(studio.height, studio.width)
    extent = dice.uniform(2.4, 4.5, count) * long**0.5
    return Scene(ground, extent, camera, tuple(dressed(studio, layers)), draw_light(dice, count, frames))


def draw_objects(studio: Studio, role: str, rows: Tensor, camera: Camera) -> list[Layer]:
    """Draws one object, still undressed, in each of some scenes; a layer for every form."""
    forms, weights = list(FORMS), list(FORMS.values())
    if role == "before":
        forms, weights = [*forms, "bar"], [*(0.5 * weight for weight in weights), 0.5]
    kinds = studio.dice.pick(weights, len(rows))
    layers = []
    for index, form in enumerate(forms):
        mine = rows[kinds == index]
        if len(mine):
            layers.append(_draw_layer(studio, role, form, mine, camera))
    return layers


SIZES = {"hero": (0.36, 0.72), "behind": (0.2, 0.5), "before": (0.15, 0.4)}


def _draw_layer(studio: Studio, role: str, form: str, rows: Tensor, camera: Camera) -> Layer:
    dice, count, frames = studio.dice, len(rows), studio.frames
    some = rows.to(dice.device)
    scale = dice.uniform(*SIZES[role], count) * (1.15 if form == "person" else 1.0)
    pose = moving_pose(dice, scale, frames, studio.reach, upright=form == "person")
    follow = dice.uniform(0.3, 1.0, count)
    if form == "bar":
        pose = replace(pose, x=pose.x[:, :1] + 0 * pose.x, y=pose.y[:, :1] + 0 * pose.y)
        pose = replace(pose, scale=0 * pose.scale + 0.9, angle=pose.angle[:, :1] * 0.5 + 0 * pose.angle)
        follow = 0 * follow
    seen = Camera(camera.x[some], camera.y[some], camera.zoom[some], camera.roll[some])
    shadow = dice.some(studio.mix.shadow, count) * dice.uniform(0.2, 0.6, count)
    at = (dice.number(-0.12, 0.12), dice.number(0.03, 0.14))
    return Layer(role, form, rows, draw_form(dice, form, count, frames), seen_by(seen, pose, follow), shadow, at)


def draw_form(dice: Dice, form: str, count: int, frames: int) -> Shape:
    """Draws the form of some objects."""
    if form in OUTLINES:
        return outlines(dice, count, frames, form)
    if form in SOLIDS:
        return turning(dice, form, count, frames)
    if form == "drops":
        return Metaballs.draw(dice, count, frames)
    return Walker.draw(dice, count, frames) if form == "person" else bars(dice, count, frames)


QUARTERED = ("box", "person")
"""Forms whose texture is four pictures of half the size."""


def dressed(studio: Studio, layers: list[Layer]) -> list[Layer]:
    """Returns layers with new textures and words, all of which are drawn in one go."""
    photo_share, side = studio.mix.object_photo, studio.side
    counts = {"whole": 0, "half": 0, "skin": 0}
    for layer in layers:
        quartered, count = layer.form in QUARTERED, len(layer.rows)
        counts["half" if quartered or layer.role == "part" else "whole"] += count * (3 if quartered else 1)
        counts["skin"] += count * (layer.form == "person")
    whole = _Roll(draw_textures(studio.dice, counts["whole"], side, studio.photos, photo_share))
    half = _Roll(draw_textures(studio.dice, counts["half"], side // 2, studio.photos, photo_share))
    skin = _Roll(plain_textures(studio.dice, counts["skin"], side // 2))
    return [_dressed(layer, whole, half, skin) for layer in layers]


class _Roll:
    """Textures that are cut off piece by piece."""

    def __init__(self, textures: Textures) -> None:
        self._textures, self._at = textures, 0

    def cut(self, count: int) -> Textures:
        part = slice(self._at, self._at + count)
        self._at += count
        return Textures(self._textures.pictures[part], self._textures.words[part])


def _dressed(layer: Layer, whole: _Roll, half: _Roll, skin: _Roll) -> Layer:
    count, form = len(layer.rows), layer.form
    if form not in QUARTERED:
        one = (half if layer.role == "part" else whole).cut(count)
        return replace(layer, textures=one.pictures, words=tuple(f"{words} {form}" for words in one.words))
    first, second, third = (half.cut(count) for _ in range(3))
    if form == "box":
        words = tuple(f"{words} box" for words in first.words)
        return replace(layer, textures=quarters([first, second, third, first]), words=words)
    words = tuple(f"person in a {coat} coat" for coat in first.words)
    return replace(layer, textures=quarters([first, second, skin.cut(count), third]), words=words)


def draw_part(studio: Studio, owners: list[Layer], rows: Tensor, stick_out: bool = False) -> list[Layer]:
    """Draws a part, still undressed, fixed to an object, in those of the scenes that are among ``rows``.

    Args:
        owners: the layers that the parts may belong to.
        stick_out: whether the part changes the object's outline.
    """
    dice = studio.dice
    layers = []
    for owner in owners:
        mine = torch.isin(owner.rows, rows).nonzero().flatten()
        if not len(mine):
            continue
        count, frames = len(mine), owner.pose.x.shape[1]
        far = (0.75, 1.0) if stick_out else (0.0, 0.6)
        angle, distance = dice.angle(count), dice.uniform(*far, count)
        size = dice.uniform(0.3, 0.55, count) if stick_out else dice.uniform(0.2, 0.45, count)
        pose = riding(owner.pose.rows(mine), distance * torch.cos(angle), distance * torch.sin(angle), size)
        form = OUTLINES[dice.index(len(OUTLINES))]
        shape = outlines(dice, count, frames, form)
        shape = replace(shape, radius=shape.radius[:, :1].expand_as(shape.radius))
        layers.append(Layer("part", form, owner.rows[mine], shape, pose))
    return layers
