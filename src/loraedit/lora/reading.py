"""Reads LoRA files of every public kind; :mod:`loraedit.lora.files` lists them."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from loraedit.errors import ModelError
from loraedit.families.layer_names import diffusers_name, spread_flat_name
from loraedit.lora.files import ADAPTER_METADATA, DIFFERENCES, LoraFile
from loraedit.lora.low_rank import LowRankLayer, split_fused_layers
from loraedit.lora.opening import unreadable_refused
from loraedit.storage.files import read_json

__all__ = ["read_lora"]

PREFIXES = (
    "model.diffusion_model.", "diffusion_model.", "base_model.model.", "transformer.", "pipe.dit.", "dit.",
    "lora_unet_", "lora_transformer_",
)  # fmt: skip
MATRIX = re.compile(r"\.(lora_A|lora_B|lora_down|lora_up|lora\.down|lora\.up)(?:\.\w+)?\.(weight|bias)$")
OTHER_METHODS = {
    "lokr_": "LoKr", "hada_": "LoHa", "dora_scale": "DoRA", "lora_magnitude_vector": "DoRA", "oft_": "OFT",
    "lora_embedding_": "embedding", "lora_mid": "LoCon",
}  # fmt: skip


def read_lora(path: Path, header_only: bool = False) -> LoraFile:
    """Reads a LoRA file.

    Args:
        header_only: reads only shapes and alphas; the matrices are then on the meta device.

    Raises:
        ModelError: the file is not a complete safetensors file, or holds something else than a LoRA.
    """
    with unreadable_refused(path), safe_open(path, "pt") as file:
        metadata, tensors, types = dict(file.metadata() or {}), {}, {}
        for key in file.keys():  # noqa: SIM118 (not a dict)
            part = file.get_slice(key)
            shape, types[key] = part.get_shape(), part.get_dtype()
            read = not header_only or (key.endswith(".alpha") and math.prod(shape) == 1)
            tensors[key] = file.get_tensor(key) if read else torch.empty(shape, device="meta")
    layers, differences = _layers_and_differences(path, tensors, metadata)
    return LoraFile(path, layers, differences, metadata, types)


def _layers_and_differences(
    path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]
) -> tuple[dict[str, LowRankLayer], dict[str, Tensor]]:
    """Sorts tensors into low-rank changes and whole differences, and refuses any other."""
    parts: dict[str, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        layer, part = _parse(path, key)
        if part in parts.setdefault(layer, {}):
            raise ModelError(f"LoRA '{path}' holds {part} of layer {layer} twice, under two names. Fetch it again.")
        parts[layer][part] = value
    alphas = _Alphas(path, metadata)
    layers, differences = {}, {}
    for name, found in parts.items():
        differences.update({name + DIFFERENCES[kind]: found.pop(kind) for kind in DIFFERENCES if kind in found})
        if not found:
            continue
        alpha, bias = found.pop("alpha", None), found.pop("up.bias", None)
        if found.keys() != {"down", "up"}:
            raise ModelError(f"LoRA '{path}' lacks one of the two matrices of layer {name}. Fetch it again.")
        layers[name] = _layer(path, name, found["down"], found["up"], alphas.of(name, alpha))
        if bias is not None:
            differences[f"{name}.bias"] = bias * (layers[name].alpha / layers[name].rank)
    try:
        layers = split_fused_layers(layers)
    except ValueError as error:
        raise ModelError(
            f"LoRA '{path}' names fused layers of HunyuanVideo, but their sizes differ ({error}). Give another file."
        ) from error
    if not layers:
        raise ModelError(f"'{path}' holds no LoRA: it has no pair of low-rank matrices. Give another file.")
    return dict(sorted(layers.items())), dict(sorted(differences.items()))


def _parse(path: Path, key: str) -> tuple[str, str]:
    """Returns diffusers' name of the layer, and ``down``, ``up``, ``up.bias``, ``alpha`` or one of DIFFERENCES."""
    if not key.isprintable():
        raise ModelError(
            f"'{path}' holds names that cannot be printed, so it is not a LoRA file of a known kind. Give another file."
        )
    for mark, method in OTHER_METHODS.items():
        if mark in key:
            raise ModelError(f"'{path}' is a {method} file: it holds {key}. Give a plain LoRA file.")
    matrix, last = MATRIX.search(key), f".{key.rpartition('.')[2]}"
    if matrix is not None:
        name, part = key[: matrix.start()], "up" if matrix[1].endswith(("_B", "up")) else "down"
        part = part if matrix[2] == "weight" else f"{part}.bias"
    elif last in DIFFERENCES or last == ".alpha":
        name, part = key.removesuffix(last), last if last in DIFFERENCES else "alpha"
    else:
        raise ModelError(f"'{path}' is not a LoRA file of a known kind: it holds '{key}'. Give another file.")
    prefix = next((prefix for prefix in PREFIXES if name.startswith(prefix)), "")
    name = name.removeprefix(prefix)
    if prefix.startswith("lora_"):
        dotted = spread_flat_name(name)
        if dotted is None:
            raise ModelError(
                f"'{path}' names a layer '{prefix}{name}' that no known model has. Give a LoRA of a supported model."
            )
        name = dotted
    return diffusers_name(name), part


class _Alphas:
    """Finds the alpha of each layer: in its own tensor, else in the metadata."""

    def __init__(self, path: Path, metadata: dict[str, str]) -> None:
        self.path, self.config = path, _adapter_config(path, metadata)

    def of(self, name: str, stored: Tensor | None) -> float | None:
        """Returns a layer's alpha, or None if the file does not state it."""
        if stored is not None:
            if stored.numel() != 1:
                raise ModelError(
                    f"LoRA '{self.path}' has an alpha of layer {name} that is not one number. Fetch it again."
                )
            return float(stored)
        if "lora_alpha" not in self.config:
            return None
        try:
            alpha = float(_pattern(self.config.get("alpha_pattern"), name, self.config["lora_alpha"]))
            if self.config.get("use_rslora"):
                alpha *= math.sqrt(float(_pattern(self.config.get("rank_pattern"), name, self.config["r"])))
        except (KeyError, TypeError, ValueError) as error:
            raise _bad_config(self.path) from error
        return alpha


def _adapter_config(path: Path, metadata: dict[str, str]) -> dict[str, Any]:
    """Returns peft's configuration, from diffusers' metadata or from the file that peft writes beside; else empty."""
    beside = path.with_name("adapter_config.json")
    try:
        if ADAPTER_METADATA in metadata:
            packed = dict(json.loads(metadata[ADAPTER_METADATA]))
            config = {key.split(".", 1)[1]: value for key, value in packed.items() if key.startswith("transformer.")}
        else:
            config = dict(read_json(beside)) if beside.is_file() else {}
    except (OSError, TypeError, ValueError, RecursionError) as error:
        raise _bad_config(path) from error
    return config


def _bad_config(path: Path) -> ModelError:
    return ModelError(f"LoRA '{path}' comes with a peft configuration that cannot be read. Fetch it again.")


def _pattern(patterns: Any, name: str, default: Any) -> Any:
    """Returns the value of the first pattern that ends the layer's name. Patterns are names here, not expressions."""
    for pattern, value in dict(patterns or {}).items():
        if f".{name}".endswith(f".{str(pattern).removeprefix('^')}"):
            return value
    return default


def _layer(path: Path, name: str, down: Tensor, up: Tensor, alpha: float | None) -> LowRankLayer:
    if down.ndim != 2 or up.ndim != 2 or down.shape[0] != up.shape[1] or not down.shape[0]:
        raise ModelError(
            f"LoRA '{path}' has matrices {list(down.shape)} and {list(up.shape)} in layer {name}. "
            "Expected [rank, in] and [out, rank] of one rank."
        )
    if alpha is not None and not (math.isfinite(alpha) and alpha > 0):
        raise ModelError(f"LoRA '{path}' has alpha {alpha} in layer {name}. Expected a number above 0.")
    return LowRankLayer(down, up, float(torch.tensor(float(down.shape[0]) if alpha is None else alpha)))
