"""Compares a LoRA file with the parameters of a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from loraedit.errors import ModelError
from loraedit.families.layer_names import is_optional
from loraedit.lora.files import LoraFile
from loraedit.lora.low_rank import LowRankLayer

__all__ = ["MatchedLora", "match_lora"]


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


def match_lora(lora: LoraFile, shapes: Mapping[str, tuple[int, ...]]) -> MatchedLora:
    """Returns the part of a LoRA that a model can use.

    Args:
        shapes: shapes of the model's parameters by diffusers' name.

    Raises:
        ModelError: the LoRA is for another model.
    """
    changed = [(f"{name}.weight", (layer.up.shape[0], layer.down.shape[1])) for name, layer in lora.layers.items()]
    left_out = set()
    for name, shape in (*changed, *((name, tuple(value.shape)) for name, value in lora.differences.items())):
        expected, layer = shapes.get(name), _layer_of(name)
        if expected == shape:
            continue
        if not is_optional(layer):
            size = "which this model lacks" if expected is None else f"which is {list(expected)} in this model"
            raise ModelError(f"LoRA '{lora.path}' was made for another model: it changes {name} {list(shape)}, {size}.")
        left_out.add(layer)
    layers = {name: layer for name, layer in lora.layers.items() if name not in left_out}
    differences = {name: value for name, value in lora.differences.items() if _layer_of(name) not in left_out}
    if not layers:
        raise ModelError(f"LoRA '{lora.path}' was made for another model: none of its layers is in this one.")
    return MatchedLora(layers, differences, sorted(left_out))


def _layer_of(parameter: str) -> str:
    return parameter.rpartition(".")[0]
