"""Edits with a known answer: the same scenes with another look of the first object."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from pretrain.render.scene import FORMS, Layer, Scene, Studio, draw_form, draw_part, dressed
from pretrain.render.textures import recoloured

__all__ = ["EDITS", "edited_twin"]


def edited_twin(studio: Studio, scene: Scene, kind: str) -> Scene:
    """Returns the scenes with their first objects edited, motion and everything else as before.

    Args:
        kind: ``recolour`` changes the colours, ``retexture`` the patterns, ``part`` adds a part that changes the
            outline, ``swap`` puts another object on the same path.
    """
    return EDITS[kind](studio, scene)


def _recolour(studio: Studio, scene: Scene) -> Scene:
    layers = [
        replace(layer, textures=recoloured(studio.dice, layer.textures)) if layer.role in ("hero", "part") else layer
        for layer in scene.layers
    ]
    return replace(scene, layers=tuple(layers))


def _retexture(studio: Studio, scene: Scene) -> Scene:
    heroes = dressed(studio, [layer for layer in scene.layers if layer.role == "hero"])
    return _with_heroes(scene, heroes, parts=True)


def _add_part(studio: Studio, scene: Scene) -> Scene:
    owners = [layer for layer in scene.layers if layer.role == "hero"]
    new = dressed(studio, draw_part(studio, owners, torch.arange(scene.count), stick_out=True))
    after = max(index for index, layer in enumerate(scene.layers) if layer.role in ("hero", "part")) + 1
    return replace(scene, layers=(*scene.layers[:after], *new, *scene.layers[after:]))


def _swap(studio: Studio, scene: Scene) -> Scene:
    others = [_another(studio, layer) for layer in scene.layers if layer.role == "hero"]
    return _with_heroes(scene, dressed(studio, others), parts=False)


def _another(studio: Studio, layer: Layer) -> Layer:
    """Returns objects of another form on the same path."""
    forms = [form for form in FORMS if form != layer.form]
    form = forms[studio.dice.index(len(forms))]
    return replace(layer, form=form, shape=draw_form(studio.dice, form, len(layer.rows), studio.frames))


def _with_heroes(scene: Scene, heroes: list[Layer], parts: bool) -> Scene:
    """Returns the scenes with other first objects, in the order of those before, with or without their parts."""
    new, layers = iter(heroes), []
    for layer in scene.layers:
        if layer.role == "hero":
            layers.append(next(new))
        elif parts or layer.role != "part":
            layers.append(layer)
    return replace(scene, layers=tuple(layers))


EDITS: dict[str, Callable[[Studio, Scene], Scene]] = {
    "recolour": _recolour, "retexture": _retexture, "part": _add_part, "swap": _swap,
}  # fmt: skip
"""By name."""
