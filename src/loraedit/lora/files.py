"""LoRA files of every public kind, read into one form and written from it.

| kind | layer | matrices | scale |
|---|---|---|---|
| comfyui, "native" | ``diffusion_model.blocks.0.self_attn.q`` | lora_A/lora_B or lora_down/lora_up | ``.alpha`` |
| diffusers, peft | ``transformer.blocks.0.attn1.to_q`` | lora_A/lora_B | alphas in the metadata |
| musubi, kohya | ``lora_unet_blocks_0_self_attn_q`` | lora_down/lora_up | ``.alpha`` |
| DiffSynth (read only) | ``blocks.0.self_attn.q`` | lora_A.default/lora_B.default | none |

HunyuanVideo's own layers, which these names stand for too (``diffusion_model.double_blocks.0.img_attn_qkv``), are
several of diffusers' in one: see :mod:`loraedit.lora.layers`.

A layer becomes W + alpha / rank B A. Without an alpha, alpha is the rank. Distilled LoRAs also carry whole differences:
``.diff`` of a weight, ``.diff_b`` of a bias, ``.diff_m`` of a modulation table, which are added as they are.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import safe_open
from torch import Tensor

from loraedit.errors import ModelError
from loraedit.families.layer_names import diffusers_name, is_optional, native_name, spread_flat_name
from loraedit.lora.layers import Layer, split_fused, to_native
from loraedit.lora.opening import unreadable_refused
from loraedit.storage.files import read_json, write_tensors

__all__ = ["Fit", "Layer", "LoraFile", "LoraFormat", "fit", "read_lora", "write_lora"]

LoraFormat = Literal["comfyui", "diffusers", "musubi"]

ADAPTER_METADATA = "lora_adapter_metadata"
"""Where diffusers keeps peft's configuration, as JSON with ``transformer.`` before each name."""

PREFIXES = (
    "model.diffusion_model.", "diffusion_model.", "base_model.model.", "transformer.", "pipe.dit.", "dit.",
    "lora_unet_", "lora_transformer_",
)  # fmt: skip
MATRIX = re.compile(r"\.(lora_A|lora_B|lora_down|lora_up|lora\.down|lora\.up)(?:\.\w+)?\.(weight|bias)$")
WHOLE = {".diff": ".weight", ".diff_b": ".bias", ".diff_m": ".scale_shift_table"}
OTHER_METHODS = {
    "lokr_": "LoKr", "hada_": "LoHa", "dora_scale": "DoRA", "lora_magnitude_vector": "DoRA", "oft_": "OFT",
    "lora_embedding_": "embedding", "lora_mid": "LoCon",
}  # fmt: skip


@dataclass(frozen=True)
class LoraFile:
    """What a LoRA file holds.

    Attributes:
        path: the file.
        layers: the low-rank changes, by diffusers' name of the layer.
        whole: whole differences, by diffusers' name of the parameter.
        metadata: the header's, texts by name.
        keys: the names in the file, and the type that each is stored in, such as ``BF16``.
    """

    path: Path
    layers: dict[str, Layer]
    whole: dict[str, Tensor]
    metadata: dict[str, str]
    keys: dict[str, str]


@dataclass(frozen=True)
class Fit:
    """A LoRA file as one model takes it.

    Attributes:
        layers: the low-rank changes that the model has a place for.
        whole: the whole differences that it has a place for.
        left_out: layers of a sister model that it does not have.
    """

    layers: dict[str, Layer]
    whole: dict[str, Tensor]
    left_out: list[str]


# ---- reading -------------------------------------------------------------------------------------------------------


def read_lora(path: Path, header_only: bool = False) -> LoraFile:
    """Read a LoRA file of any of the kinds above.

    Args:
        header_only: take no more than shapes and alphas from the file; the matrices are then on the meta device.

    Raises:
        ModelError: it is no whole safetensors file, or holds something else than a LoRA.
    """
    with unreadable_refused(path), safe_open(path, "pt") as file:
        metadata, tensors, types = dict(file.metadata() or {}), {}, {}
        for key in file.keys():  # noqa: SIM118 (not a dict)
            part = file.get_slice(key)
            shape, types[key] = part.get_shape(), part.get_dtype()
            read = not header_only or (key.endswith(".alpha") and math.prod(shape) == 1)
            tensors[key] = file.get_tensor(key) if read else torch.empty(shape, device="meta")
    layers, whole = _sort_out(path, tensors, metadata)
    return LoraFile(path, layers, whole, metadata, types)


def _sort_out(
    path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]
) -> tuple[dict[str, Layer], dict[str, Tensor]]:
    """Low-rank changes and whole differences; nothing is left over."""
    parts: dict[str, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        layer, part = _parse(path, key)
        if part in parts.setdefault(layer, {}):
            raise ModelError(f"LoRA '{path}' holds {part} of layer {layer} twice, under two names.")
        parts[layer][part] = value
    alphas = _Alphas(path, metadata)
    layers, whole = {}, {}
    for name, found in parts.items():
        whole.update({name + WHOLE[kind]: found.pop(kind) for kind in WHOLE if kind in found})
        if not found:
            continue
        alpha, bias = found.pop("alpha", None), found.pop("up.bias", None)
        if found.keys() != {"down", "up"}:
            raise ModelError(f"LoRA '{path}' lacks one of the two matrices of layer {name}. Fetch it again.")
        layers[name] = _layer(path, name, found["down"], found["up"], alphas.of(name, alpha))
        if bias is not None:
            whole[f"{name}.bias"] = bias * (layers[name].alpha / layers[name].rank)
    try:
        layers = split_fused(layers)
    except ValueError as error:
        raise ModelError(f"LoRA '{path}' has layers that are not HunyuanVideo's, despite their names.") from error
    if not layers:
        raise ModelError(f"'{path}' holds no LoRA: it has no pair of low-rank matrices.")
    return dict(sorted(layers.items())), dict(sorted(whole.items()))


def _parse(path: Path, key: str) -> tuple[str, str]:
    """Diffusers' name of the layer, and ``down``, ``up``, ``up.bias``, ``alpha`` or one of :data:`WHOLE`."""
    if not key.isprintable():
        raise ModelError(f"'{path}' holds names that cannot be printed, so it is not a LoRA file that loraedit knows.")
    for mark, method in OTHER_METHODS.items():
        if mark in key:
            raise ModelError(f"'{path}' is a {method} file (it has {key}); only plain LoRA files can be used.")
    matrix, last = MATRIX.search(key), f".{key.rpartition('.')[2]}"
    if matrix is not None:
        name, part = key[: matrix.start()], "up" if matrix[1].endswith(("_B", "up")) else "down"
        part = part if matrix[2] == "weight" else f"{part}.bias"
    elif last in WHOLE or last == ".alpha":
        name, part = key.removesuffix(last), last if last in WHOLE else "alpha"
    else:
        raise ModelError(f"'{path}' is not a LoRA file that loraedit knows: it holds '{key}'.")
    prefix = next((prefix for prefix in PREFIXES if name.startswith(prefix)), "")
    name = name.removeprefix(prefix)
    if prefix.startswith("lora_"):
        spread = spread_flat_name(name)
        if spread is None:
            raise ModelError(f"'{path}' names a layer '{prefix}{name}' that no known model has.")
        name = spread
    return diffusers_name(name), part


class _Alphas:
    """The alpha of each layer: its own tensor's, else the metadata's, else its rank."""

    def __init__(self, path: Path, metadata: dict[str, str]) -> None:
        self.path, self.config = path, _adapter_config(path, metadata)

    def of(self, name: str, stored: Tensor | None) -> float | None:
        """None: the file does not say."""
        if stored is not None:
            if stored.numel() != 1:
                raise ModelError(f"LoRA '{self.path}' has an alpha of layer {name} that is not one number.")
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
    """Peft's configuration, from diffusers' metadata or from the file that peft writes beside; empty without either."""
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
    """Peft's rule: the first pattern that ends the layer's name; patterns are taken as names, not as expressions."""
    for pattern, value in dict(patterns or {}).items():
        if f".{name}".endswith(f".{str(pattern).removeprefix('^')}"):
            return value
    return default


def _layer(path: Path, name: str, down: Tensor, up: Tensor, alpha: float | None) -> Layer:
    if down.ndim != 2 or up.ndim != 2 or down.shape[0] != up.shape[1] or not down.shape[0]:
        raise ModelError(
            f"LoRA '{path}' has matrices {list(down.shape)} and {list(up.shape)} in layer {name}. "
            "Expected [rank, in] and [out, rank] of one rank."
        )
    if alpha is not None and not (math.isfinite(alpha) and alpha > 0):
        raise ModelError(f"LoRA '{path}' has alpha {alpha} in layer {name}. Expected a number above 0.")
    return Layer(down, up, float(torch.tensor(float(down.shape[0]) if alpha is None else alpha)))


# ---- what fits a model ---------------------------------------------------------------------------------------------


def fit(lora: LoraFile, shapes: Mapping[str, tuple[int, ...]]) -> Fit:
    """Compare a LoRA with a model's parameters.

    Args:
        shapes: the model's, by diffusers' parameter name.

    Raises:
        ModelError: the LoRA is of another model.
    """
    changed = [(f"{name}.weight", (layer.up.shape[0], layer.down.shape[1])) for name, layer in lora.layers.items()]
    left_out = set()
    for name, shape in (*changed, *((name, tuple(value.shape)) for name, value in lora.whole.items())):
        have, layer = shapes.get(name), _layer_of(name)
        if have == shape:
            continue
        if not is_optional(layer):
            size = "which this model does not have" if have is None else f"which is {list(have)} in this model"
            raise ModelError(f"LoRA '{lora.path}' was made for another model: it changes {name} {list(shape)}, {size}.")
        left_out.add(layer)
    layers = {name: layer for name, layer in lora.layers.items() if name not in left_out}
    whole = {name: value for name, value in lora.whole.items() if _layer_of(name) not in left_out}
    if not layers:
        raise ModelError(f"LoRA '{lora.path}' was made for another model: none of its layers is in this one.")
    return Fit(layers, whole, sorted(left_out))


def _layer_of(parameter: str) -> str:
    return parameter.rpartition(".")[0]


# ---- writing -------------------------------------------------------------------------------------------------------


def write_lora(path: Path, lora: LoraFile, form: LoraFormat, dtype: torch.dtype | None = None) -> None:
    """Write a LoRA in one of the public forms; the same LoRA gives the same bytes.

    Matrices are stored as they are, so that going through any of the forms and back is exact. An alpha that differs
    from the rank is stored apart, where each form has a place for it.

    Args:
        dtype: precision of the file; None keeps each tensor's own.

    Raises:
        ModelError: the form has no place for what the LoRA holds, or the precision none for its values.
    """
    if lora.whole and form != "comfyui":
        raise ModelError(
            f"'{lora.path}' holds {len(lora.whole)} whole differences of weights and biases, which the {form} form "
            "cannot store. Use --format comfyui, which diffusers reads too."
        )
    metadata = {key: value for key, value in lora.metadata.items() if key != ADAPTER_METADATA}
    if form == "diffusers" and any(layer.alpha != layer.rank for layer in lora.layers.values()):
        metadata[ADAPTER_METADATA] = json.dumps(_packed_config(lora.layers), sort_keys=True)
    tensors = dict(_tensors(lora, form))
    write_tensors(path, {key: _cast(lora.path, key, value, dtype) for key, value in tensors.items()}, metadata)


def _tensors(lora: LoraFile, form: LoraFormat) -> Iterator[tuple[str, Tensor]]:
    down, up = ("lora_down", "lora_up") if form == "musubi" else ("lora_A", "lora_B")
    layers = lora.layers if form == "diffusers" else to_native(lora.layers, fused=form == "comfyui")
    for name, layer in layers.items():
        key = _key(name, form)
        yield f"{key}.{down}.weight", layer.down
        yield f"{key}.{up}.weight", layer.up
        if form == "musubi" or (form == "comfyui" and layer.alpha != layer.rank):
            yield f"{key}.alpha", torch.tensor(layer.alpha)
    ends = {end: kind for kind, end in WHOLE.items()}
    for name, value in lora.whole.items():
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


def _packed_config(layers: dict[str, Layer]) -> dict[str, Any]:
    """Peft's configuration as diffusers packs it."""
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
