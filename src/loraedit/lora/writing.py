"""Writes LoRA files in the forms that other programs read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from loraedit.errors import ModelError
from loraedit.families.layer_names import native_name, spread_flat_name
from loraedit.lora.files import LoraFile
from loraedit.lora.keys import ADAPTER_METADATA, DIFFERENCES, LoraFormat
from loraedit.lora.low_rank import LowRankLayer, to_native_layers
from loraedit.storage.files import write_tensors

__all__ = ["DTYPES", "write_lora"]

DTYPES = {"keep": None, "fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""Precisions that can be written, by the name that users give; None keeps the precision of each tensor."""


def write_lora(path: Path, lora: LoraFile, form: LoraFormat, dtype: torch.dtype | None = None) -> None:
    """Writes a LoRA in one of the public forms; the same LoRA gives the same bytes.

    Matrices are stored unchanged, so converting to any form and back is exact. An alpha that differs from the rank is
    stored where the form keeps alphas.

    Args:
        dtype: precision of the file; None keeps the precision of each tensor.

    Raises:
        ModelError: the form cannot store what the LoRA holds, or the precision cannot store its values.
    """
    if lora.differences and form != "comfyui":
        raise ModelError(
            f"The {form} form cannot store the {len(lora.differences)} whole differences of weights and biases in "
            f"'{lora.path}'. Use --format comfyui, which diffusers reads too."
        )
    metadata = {key: value for key, value in lora.metadata.items() if key != ADAPTER_METADATA}
    if form == "diffusers" and any(layer.alpha != layer.rank for layer in lora.layers.values()):
        metadata[ADAPTER_METADATA] = json.dumps(_packed_config(lora.layers), sort_keys=True)
    tensors = dict(_tensors(lora, form))
    write_tensors(path, {key: _cast(lora.path, key, value, dtype) for key, value in tensors.items()}, metadata)


def _tensors(lora: LoraFile, form: LoraFormat) -> Iterator[tuple[str, Tensor]]:
    down, up = ("lora_down", "lora_up") if form == "musubi" else ("lora_A", "lora_B")
    layers = lora.layers if form == "diffusers" else to_native_layers(lora.layers, fused=form == "comfyui")
    for name, layer in layers.items():
        key = _key(name, form)
        yield f"{key}.{down}.weight", layer.down
        yield f"{key}.{up}.weight", layer.up
        if form == "musubi" or (form == "comfyui" and layer.alpha != layer.rank):
            yield f"{key}.alpha", torch.tensor(layer.alpha)
    ends = {end: kind for kind, end in DIFFERENCES.items()}
    for name, value in lora.differences.items():
        layer_name, _, parameter = name.rpartition(".")
        yield f"{_key(layer_name, form)}{ends[f'.{parameter}']}", value


def _key(layer: str, form: LoraFormat) -> str:
    if form == "diffusers":
        return f"transformer.{layer}"
    native = native_name(layer)
    if form == "comfyui":
        return f"diffusion_model.{native}"
    flat = native.replace(".", "_")
    if spread_flat_name(flat) is None:
        raise ModelError(
            f"The musubi form has no name for layer {layer}: it is for Wan and HunyuanVideo. Use --format comfyui."
        )
    return f"lora_unet_{flat}"


def _packed_config(layers: dict[str, LowRankLayer]) -> dict[str, Any]:
    """Returns peft's configuration in the form that diffusers stores."""
    first = next(iter(layers.values()))
    config = {
        "r": first.rank,
        "lora_alpha": first.alpha,
        "rank_pattern": {f"^{name}": layer.rank for name, layer in layers.items() if layer.rank != first.rank},
        "alpha_pattern": {f"^{name}": layer.alpha for name, layer in layers.items() if layer.alpha != first.alpha},
        "target_modules": list(layers),
    }
    return {f"transformer.{name}": value for name, value in config.items()}


def _cast(path: Path, key: str, value: Tensor, dtype: torch.dtype | None) -> Tensor:
    if dtype is None or key.endswith(".alpha"):
        return value
    cast = value.to(dtype)
    if not bool(torch.isfinite(cast).all()):
        raise ModelError(f"LoRA '{path}' has values in {key} that {dtype} cannot hold. Choose another --dtype.")
    return cast
