"""Translates the names of layers between diffusers and each model's own code, for LoRA files.

loraedit itself uses diffusers' names everywhere. ComfyUI, musubi-tuner and DiffSynth use the models' own names
("native" here). The tables are those of all registered families together, because a LoRA file does not say which
family it is for. A name that no table holds is the same in both worlds.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache

from loraedit.families.record import FamilyRecord
from loraedit.families.registry import records

__all__ = [
    "diffusers_name",
    "fused_layers",
    "fused_layers_among",
    "is_optional",
    "native_name",
    "numbered",
    "spread_flat_name",
    "unnumbered",
]


@dataclass(frozen=True)
class _Tables:
    """The tables of several families.

    Attributes:
        to_native: native name by diffusers' name.
        to_diffusers: diffusers' name by native name.
        from_flat: name by the same name with underscores in place of its dots.
        fused: diffusers' names by the native name of the layer that holds them.
    """

    to_native: Mapping[str, str]
    to_diffusers: Mapping[str, str]
    from_flat: Mapping[str, str]
    fused: Mapping[str, tuple[str, ...]]


@cache
def _tables(families: tuple[FamilyRecord, ...]) -> _Tables:
    to_native = {name: native for family in families for name, native in family.layer_names.native.items()}
    to_diffusers = {native: name for name, native in to_native.items()}
    fused = {name: parts for family in families for name, parts in family.layer_names.fused.items()}
    from_flat = {name.replace(".", "_"): name for name in (*to_native, *to_diffusers, *fused)}
    return _Tables(to_native, to_diffusers, from_flat, fused)


def native_name(layer: str) -> str:
    """``blocks.3.attn1.to_q`` -> ``blocks.3.self_attn.q``."""
    return _translate(layer, _tables(records()).to_native)


def diffusers_name(layer: str) -> str:
    """``blocks.3.self_attn.q`` -> ``blocks.3.attn1.to_q``."""
    return _translate(layer, _tables(records()).to_diffusers)


def fused_layers() -> Mapping[str, tuple[str, ...]]:
    """Returns diffusers' names by the native name of the layer that holds them; see :class:`LayerNames`."""
    return _tables(records()).fused


def fused_layers_among(layers: Iterable[str]) -> Mapping[str, tuple[str, ...]]:
    """Returns the fused layers of the family that diffusers' layer names belong to; empty if it has none."""
    patterns = [unnumbered(layer)[0] for layer in layers]
    for family in records():
        starts = family.layer_names.only_here
        if starts and any(pattern.startswith(starts) for pattern in patterns):
            return family.layer_names.fused
    return {}


def spread_flat_name(flat: str) -> str | None:
    """``blocks_3_self_attn_q``, as kohya's tools write it -> ``blocks.3.self_attn.q``; None if no table holds it."""
    number = re.search(r"(?<=blocks_)\d+", flat)
    pattern = flat if number is None else f"{flat[: number.start()]}#{flat[number.end() :]}"
    name = _tables(records()).from_flat.get(pattern)
    return name if name is None or number is None else numbered(name, number[0])


def unnumbered(layer: str) -> tuple[str, str]:
    """``double_blocks.3.img_attn.proj`` -> ``double_blocks.#.img_attn_proj`` and ``3``.

    A layer outside the blocks keeps its name, and its number is empty.
    """
    number = re.match(r"\w*blocks\.(\d+)\.", layer)
    if number is None:
        return layer, ""
    name = f"{layer[: number.start(1)]}#{layer[number.end(1) :]}"
    return _with_usual_ending(name), number[1]


def _with_usual_ending(name: str) -> str:
    for family in records():
        names = family.layer_names
        if names.endings and name.startswith(tuple({f"{key.split('.')[0]}." for key in names.fused})):
            return next(
                (name.removesuffix(end) + usual for end, usual in names.endings.items() if name.endswith(end)), name
            )
    return name


def numbered(name: str, number: str) -> str:
    """``double_blocks.#.img_attn_proj`` and ``3`` -> ``double_blocks.3.img_attn_proj``."""
    return name.replace("#", number)


def is_optional(layer: str) -> bool:
    """Returns whether LoRAs of sister models may have this layer where a model lacks it or has it in another size."""
    patterns = (family.layer_names.optional for family in records())
    return any(pattern is not None and re.search(pattern, layer) for pattern in patterns)


def _translate(layer: str, table: Mapping[str, str]) -> str:
    name, number = unnumbered(layer)
    if name in table:
        return numbered(table[name], number)
    first, dot, rest = layer.partition(".")
    return f"{table[first]}{dot}{rest}" if first in table else layer
