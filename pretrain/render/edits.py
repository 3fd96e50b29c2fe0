"""Edits with a known answer: the same scenes with another look of the first object."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from pretrain.render.dice import Dice
from pretrain.render.scene import FORMS, Layer, Scene, Studio, draw_form, draw_part, dress
from pretrain.render.silhouettes import OUTLINES
from pretrain.render.solids import SOLIDS
from pretrain.render.textures import recoloured
from pretrain.render.walkers import Walker

__all__ = ["EDITS", "edited_twin"]


def edited_twin(studio: Studio, scene: Scene, kind: str) -> Scene:
    """Returns the scenes with their first objects edited, motion and everything else as before.

    Args:
        kind: ``recolour`` changes the colours, ``retexture`` the patterns, ``part`` adds a part that changes the
            outline, ``swap`` puts another object on the same path.
    """
    return EDITS[kind](studio, scene)


def _changed(scene: Scene, change: Callable[[Layer], list[Layer]], roles: tuple[str, ...]) -> Scene:
    """Replaces the layers of some roles."""
    layers = [new for layer in scene.layers for new in (change(layer) if layer.role in roles else [layer])]
    return replace(scene, layers=tuple(layers))


def _recolour(studio: Studio, scene: Scene) -> Scene:
    def change(layer: Layer) -> list[Layer]:
        return [replace(layer, textures=recoloured(studio.dice, layer.textures))]

    return _changed(scene, change, ("hero", "part"))


def _retexture(studio: Studio, scene: Scene) -> Scene:
    def change(layer: Layer) -> list[Layer]:
        form = form_of(layer)
        clothes = dress(studio, form, len(layer.rows))
        return [replace(layer, textures=clothes.pictures, words=clothes.words)]

    return _changed(scene, change, ("hero",))


def _add_part(studio: Studio, scene: Scene) -> Scene:
    owners = [layer for layer in scene.layers if layer.role == "hero"]
    new = draw_part(studio, owners, torch.arange(scene.count), stick_out=True)
    after = max(index for index, layer in enumerate(scene.layers) if layer.role in ("hero", "part")) + 1
    return replace(scene, layers=(*scene.layers[:after], *new, *scene.layers[after:]))


def _swap(studio: Studio, scene: Scene) -> Scene:
    def change(layer: Layer) -> list[Layer]:
        if layer.role == "part":
            return []
        return [_another(studio, layer)]

    return _changed(scene, change, ("hero", "part"))


def _another(studio: Studio, layer: Layer) -> Layer:
    dice: Dice = studio.dice
    forms = [form for form in FORMS if form != form_of(layer)]
    form, count = forms[dice.index(len(forms))], len(layer.rows)
    clothes = dress(studio, form, count)
    shape = draw_form(dice, form, count, studio.frames)
    return replace(layer, shape=shape, textures=clothes.pictures, words=clothes.words)


def form_of(layer: Layer) -> str:
    """Returns the form of a layer's objects, as far as it decides how their texture is laid out."""
    kind = getattr(layer.shape, "kind", None)
    if kind in SOLIDS:
        return str(kind)
    return "person" if isinstance(layer.shape, Walker) else OUTLINES[0]


EDITS: dict[str, Callable[[Studio, Scene], Scene]] = {
    "recolour": _recolour, "retexture": _retexture, "part": _add_part, "swap": _swap,
}  # fmt: skip
"""By name."""
