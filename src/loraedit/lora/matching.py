"""Compares a LoRA file with the parameters of a model. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from loraedit.errors import ModelError
from loraedit.families.layer_names import is_optional
from loraedit.lora.header import LoraHeader

if TYPE_CHECKING:
    from torch import Tensor

    from loraedit.lora.files import LoraFile
    from loraedit.lora.low_rank import LowRankLayer

__all__ = ["MatchedLora", "match_header", "match_lora"]

Shape = tuple[int, ...]


@dataclass(frozen=True)
class MatchedLora:
    """The part of a LoRA file that a model can use.

    Attributes:
        layers: low-rank changes of layers that the model has.
        differences: whole differences of parameters that the model has.
        left_out: layers of a sister model that this model lacks.
    """

    layers: dict[str, LowRankLayer]
    differences: dict[str, Tensor]
    left_out: list[str]


def match_lora(lora: LoraFile, shapes: Mapping[str, Shape]) -> MatchedLora:
    """Returns the part of a LoRA that a model can use.

    Args:
        shapes: shapes of the model's parameters by diffusers' name.

    Raises:
        ModelError: the LoRA is for another model.
    """
    sizes = {name: (layer.up.shape[0], layer.down.shape[1]) for name, layer in lora.layers.items()}
    left_out = _left_out(lora.path, sizes, {name: tuple(each.shape) for name, each in lora.differences.items()}, shapes)
    layers = {name: layer for name, layer in lora.layers.items() if name not in left_out}
    differences = {name: value for name, value in lora.differences.items() if _layer_of(name) not in left_out}
    return MatchedLora(layers, differences, sorted(left_out))


def match_header(header: LoraHeader, shapes: Mapping[str, Shape]) -> set[str]:
    """Returns the layers of a sister model in a LoRA file that this model lacks.

    Args:
        shapes: shapes of the model's parameters by diffusers' name.

    Raises:
        ModelError: the LoRA is for another model.
    """
    sizes = {name: (layer.out, layer.width) for name, layer in header.layers.items()}
    return _left_out(header.path, sizes, header.differences, shapes)


def _left_out(
    path: Path, layers: Mapping[str, Shape], differences: Mapping[str, Shape], shapes: Mapping[str, Shape]
) -> set[str]:
    left_out = set()
    for name, shape in (*((f"{name}.weight", shape) for name, shape in layers.items()), *differences.items()):
        expected, layer = shapes.get(name), _layer_of(name)
        if expected == shape:
            continue
        if not is_optional(layer):
            size = "which this model lacks" if expected is None else f"which is {list(expected)} in this model"
            raise ModelError(f"LoRA '{path}' was made for another model: it changes {name} {list(shape)}, {size}.")
        left_out.add(layer)
    if layers.keys() <= left_out:
        raise ModelError(f"LoRA '{path}' was made for another model: none of its layers is in this one.")
    return left_out


def _layer_of(parameter: str) -> str:
    return parameter.rpartition(".")[0]
