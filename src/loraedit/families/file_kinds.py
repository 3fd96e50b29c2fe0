"""Tells from its header how a transformer file stores its weights, and refuses kinds that loraedit cannot read."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open

from loraedit.errors import ModelError

__all__ = ["GGUF_FULL", "SCALES", "Rename", "factor_of", "weight_kinds", "worth_quantising"]

Rename = Callable[[str], str | None]

SCALES = (".scale_weight", ".weight_scale")
"""Endings of ComfyUI's names for the factor of an fp8 weight, in place of ``.weight``."""

GGUF_FULL = ("F32", "F16", "BF16")
"""GGUF types that are not quantised."""

FP8 = {"F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2"}
"""Formats of fp8 weights, by safetensors' name, under ComfyUI's name."""
FULL = ("F64", "F32", "F16", "BF16")
BITS = {"fp8": 8.0, "int8": 8.0, "nf4": 4.5}
"""Bits of a weight that is not in a GGUF file."""

WORTHWHILE = 0.75
"""The largest share of its bits that a quantised weight may keep if it is quantised again, with a loss each time."""

READABLE = "Give a file in bfloat16, float16, fp8 or GGUF."


def weight_kinds(path: Path, rename: Rename) -> dict[str, str]:
    """Returns the kind of each quantised weight of a file by diffusers' name, as :class:`QuantisedWeight` names it.

    Args:
        path: a ``.safetensors`` or ``.gguf`` file whose header is sound.
        rename: maps the file's tensor names to those of diffusers, or to None for a tensor that is not a parameter.

    Raises:
        ModelError: weights are stored in a way that loraedit cannot read.
    """
    kinds = _gguf_kinds(path) if path.suffix == ".gguf" else _safetensors_kinds(path)
    return {key: kind for name, kind in kinds.items() if (key := rename(name)) is not None}


def factor_of(weight: str, names: Mapping[str, Any]) -> str | None:
    """Returns the name of the factor that belongs to an fp8 weight, if the file has one."""
    candidates = (weight.removesuffix(".weight") + end for end in SCALES)
    return next((name for name in candidates if name in names), None)


def _gguf_kinds(path: Path) -> dict[str, str]:
    from diffusers.quantizers.gguf.utils import dequantize_functions
    from gguf import GGUFReader

    found = {tensor.name: tensor.tensor_type for tensor in GGUFReader(path).tensors}
    for name, kind in found.items():
        if kind not in dequantize_functions and kind.name not in GGUF_FULL:
            raise ModelError(f"'{path}' stores {name} as {kind.name}, which loraedit cannot read. Give a Q4_K file.")
    return {name: kind.name for name, kind in found.items() if kind.name not in GGUF_FULL}


def _safetensors_kinds(path: Path) -> dict[str, str]:
    with safe_open(path, "np") as file:
        parts = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        for name, form in _declared_formats(file, parts).items():
            if form.get("format", "float8_e4m3fn") not in FP8.values() or form.get("convrot"):
                kind = f"{form.get('format')}{' with rotated weights (convrot)' if form.get('convrot') else ''}"
                raise ModelError(f"'{path}' stores {name} as {kind}, which loraedit cannot read yet. {READABLE}")
        kinds = {}
        for name, part in parts.items():
            if not name.endswith(".weight") or part.get_dtype() in FULL:
                continue
            factor = factor_of(name, parts)
            shape = part.get_shape()
            scales = parts[factor].get_shape() if factor else []
            by_row = scales in ([shape[0]], [shape[0], 1])
            sound = factor is None or parts[factor].get_dtype() in FULL
            if part.get_dtype() not in FP8 or not sound or not (math.prod(scales) == 1 or by_row):
                kind = part.get_dtype() + (f" with factors {scales}" if scales else "")
                raise ModelError(f"'{path}' stores {name} as {kind}, which loraedit cannot read yet. {READABLE}")
            kinds[name] = "fp8"
    return kinds


def _declared_formats(file: Any, names: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Returns what ComfyUI notes about quantised layers: in the header, or in a tensor beside each weight."""
    try:
        layers = dict(json.loads((file.metadata() or {}).get("_quantization_metadata", "{}")).get("layers", {}))
        for name in names:
            if name.endswith(".comfy_quant"):
                layers[name.removesuffix(".comfy_quant")] = json.loads(bytes(file.get_tensor(name)))
        return {str(name): dict(form) for name, form in layers.items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise ModelError("The file's notes on quantised layers cannot be read. Fetch it again.") from error


def worth_quantising(kinds: Iterable[str], kind: str) -> bool:
    """Returns whether weights that are stored in some kinds are worth quantising as ``fp8``, ``int8`` or ``nf4``.

    Weights in that kind stay as they are, and full ones always save enough.
    """
    return all(_bits(kind) <= WORTHWHILE * _bits(stored) for stored in set(kinds) - {kind})


def _bits(kind: str) -> float:
    """Returns the bits of a weight, its share of the factors included but for those of whole rows and layers."""
    if kind in BITS:
        return BITS[kind]
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    weights, size_bytes = GGML_QUANT_SIZES[GGMLQuantizationType[kind]]
    return 8 * size_bytes / weights
