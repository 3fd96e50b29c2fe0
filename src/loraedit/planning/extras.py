"""Adds extra LoRAs without contents to a transformer without contents, from their headers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from loraedit.families.layer_names import unnumbered
from loraedit.families.quantised import parameter_shapes
from loraedit.lora.adapter import stack_matched
from loraedit.lora.header import LoraHeader
from loraedit.lora.low_rank import LowRankLayer
from loraedit.lora.matching import MatchedLora, match_header

__all__ = ["adapter_bytes", "extra_facts", "stack_shapes"]

Shapes = Mapping[str, tuple[int, ...]]


def stack_shapes(transformer: nn.Module, extras: Sequence[LoraHeader], *, few: bool = False) -> None:
    """Adds LoRAs to a bare transformer on the meta device, in place, as :func:`loraedit.lora.adapter.stack` does.

    Args:
        transformer: a transformer of the model.
        extras: the headers of the LoRAs.
        few: whether the transformer has a few blocks only, which stand for all. Each then has what any block has.

    Raises:
        ModelError: a LoRA is for another model.
    """
    shapes, matched = parameter_shapes(transformer), _for_any if few else _for_all
    with torch.device("meta"):
        stack_matched(transformer, [(matched(extra, shapes), 1.0) for extra in extras])


def extra_facts(header: LoraHeader) -> list[Any]:
    """Returns everything of a LoRA that a measurement depends on, as JSON values."""
    return [{name: layer.rank for name, layer in header.layers.items()}, list(header.differences)]


def adapter_bytes(transformer: nn.Module) -> int:
    """Returns the bytes of all LoRAs of a transformer."""
    return sum(value.nbytes for name, value in transformer.named_parameters() if ".lora_" in name)


def _for_all(header: LoraHeader, shapes: Shapes) -> MatchedLora:
    """Returns a LoRA as it matches the whole transformer."""
    left_out = match_header(header, shapes)
    ranks = {name: layer.rank for name, layer in header.layers.items() if name not in left_out}
    differences = [name for name in header.differences if name.rpartition(".")[0] not in left_out]
    return _without_contents(ranks, differences, shapes)


def _for_any(header: LoraHeader, shapes: Shapes) -> MatchedLora:
    """Returns a LoRA whose every block has what any block has."""
    most: dict[tuple[str, tuple[int, ...]], int] = {}
    for name, layer in header.layers.items():
        kind = unnumbered(name)[0], (layer.out, layer.width)
        most[kind] = max(most.get(kind, 0), layer.rank)
    layers = {name.removesuffix(".weight"): shape for name, shape in shapes.items() if name.endswith(".weight")}
    ranks = {name: rank for name, shape in layers.items() if (rank := most.get((unnumbered(name)[0], shape)))}
    changed = {unnumbered(name)[0] for name in header.differences}
    return _without_contents(ranks, [name for name in shapes if unnumbered(name)[0] in changed], shapes)


def _without_contents(ranks: Mapping[str, int], differences: Sequence[str], shapes: Shapes) -> MatchedLora:
    layers = {}
    for name, rank in ranks.items():
        out, width = shapes[f"{name}.weight"]
        layers[name] = LowRankLayer(torch.empty(rank, width), torch.empty(out, rank), float(rank))
    return MatchedLora(layers, {name: torch.empty(shapes[name]) for name in differences}, [])
