"""Reads LoRA files of every public kind; :mod:`loraedit.lora.keys` lists them."""

from __future__ import annotations

from pathlib import Path

from safetensors import safe_open
from torch import Tensor

from loraedit.lora.files import LoraFile
from loraedit.lora.header import LoraHeader, holds_no_lora, read_header
from loraedit.lora.keys import DIFFERENCES
from loraedit.lora.low_rank import LowRankLayer, split_fused_layers
from loraedit.lora.opening import unreadable_refused

__all__ = ["read_lora"]


def read_lora(path: Path) -> LoraFile:
    """Reads a LoRA file.

    Raises:
        ModelError: the file is not a complete safetensors file, or holds something else than a LoRA.
    """
    header = read_header(path)
    with unreadable_refused(path), safe_open(path, "pt") as file:
        tensors = {key: file.get_tensor(key) for key in header.key_types}
    layers, differences = _layers_and_differences(header, tensors)
    return LoraFile(path, layers, differences, dict(header.metadata), dict(header.key_types))


def _layers_and_differences(
    header: LoraHeader, tensors: dict[str, Tensor]
) -> tuple[dict[str, LowRankLayer], dict[str, Tensor]]:
    """Sorts tensors into low-rank changes of diffusers' layers and whole differences."""
    layers, differences = {}, {}
    for name, keys in header.keys.items():
        differences.update({name + DIFFERENCES[kind]: tensors[keys[kind]] for kind in DIFFERENCES if kind in keys})
        if name not in header.stored:
            continue
        stored = header.stored[name]
        layers[name] = LowRankLayer(tensors[keys["down"]], tensors[keys["up"]], stored.alpha)
        if "up.bias" in keys:
            differences[f"{name}.bias"] = tensors[keys["up.bias"]] * (stored.alpha / stored.rank)
    layers = split_fused_layers(layers)
    if not layers:  # all matrices of fused layers are 0
        raise holds_no_lora(header.path)
    return dict(sorted(layers.items())), dict(sorted(differences.items()))
