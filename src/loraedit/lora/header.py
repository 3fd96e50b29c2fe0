"""Reads the headers of LoRA files of every public kind, so that unusable files are refused before torch loads."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

from loraedit.errors import ModelError
from loraedit.families.layer_names import fused_layers, numbered, unnumbered
from loraedit.lora.keys import ADAPTER_METADATA, DIFFERENCES, parse_key
from loraedit.lora.opening import unreadable_refused
from loraedit.storage.files import read_json

__all__ = ["LayerHeader", "LoraHeader", "holds_no_lora", "part_rows", "read_header"]

Shape = tuple[int, ...]

LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class LayerHeader:
    """A low-rank change of a linear layer, without its matrices.

    Attributes:
        out: rows of B.
        width: columns of A.
        rank: rows of A.
        alpha: a float32 number as stored in the file; the rank if the file states none.
    """

    out: int
    width: int
    rank: int
    alpha: float


@dataclass(frozen=True)
class LoraHeader:
    """The header of a LoRA file.

    Attributes:
        path: the file.
        keys: the names in the file by diffusers' name of the layer and by part, as of
            :func:`~loraedit.lora.keys.parse_key`.
        stored: low-rank changes by the layers of the file; some may be fused.
        layers: the same by diffusers' layers.
        differences: shapes of whole differences by diffusers' name of the parameter.
        metadata: the texts of the header by name.
        key_types: the storage type, such as ``BF16``, by the name in the file.
    """

    path: Path
    keys: Mapping[str, Mapping[str, str]]
    stored: Mapping[str, LayerHeader]
    layers: Mapping[str, LayerHeader]
    differences: Mapping[str, Shape]
    metadata: Mapping[str, str]
    key_types: Mapping[str, str]


def read_header(path: Path) -> LoraHeader:
    """Reads and checks the header of a LoRA file, and its alphas.

    Raises:
        ModelError: the file is not a complete safetensors file, or holds something else than a LoRA.
    """
    with unreadable_refused(path), safe_open(path, "np") as file:
        metadata = dict(file.metadata() or {})
        parts = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
        shapes = {key: tuple(part.get_shape()) for key, part in parts.items()}
        types = {key: part.get_dtype() for key, part in parts.items()}
        keys = _keys_by_layer(path, shapes)
        alphas = _Alphas(path, metadata)
        stored: dict[str, LayerHeader] = {}
        differences: dict[str, Shape] = {}
        for name, found in keys.items():
            differences.update({name + DIFFERENCES[kind]: shapes[found[kind]] for kind in DIFFERENCES if kind in found})
            matrices = found.keys() - DIFFERENCES.keys()
            if not matrices:
                continue
            number = _stored_alpha(path, file, name, found["alpha"], shapes, types) if "alpha" in found else None
            if matrices - {"alpha", "up.bias"} != {"down", "up"}:
                raise ModelError(f"LoRA '{path}' lacks one of the two matrices of layer {name}. Fetch it again.")
            stored[name] = _layer(path, name, shapes[found["down"]], shapes[found["up"]], alphas.of(name, number))
            if "up.bias" in found:
                differences[f"{name}.bias"] = shapes[found["up.bias"]]
    layers = _split_fused(path, stored)
    if not layers:
        raise holds_no_lora(path)
    return LoraHeader(path, keys, stored, layers, dict(sorted(differences.items())), metadata, types)


def holds_no_lora(path: Path) -> ModelError:
    """Returns the error for a file without low-rank changes."""
    return ModelError(f"'{path}' holds no LoRA: it has no pair of low-rank matrices. Give another file.")


def part_rows(out: int, width: int, parts: int) -> list[int]:
    """Returns the rows of each of the layers that a fused layer consists of.

    Args:
        out: rows of the fused layer.
        width: its columns.
        parts: number of its parts: 1, 3 (queries, keys, values) or 4 (these and the MLP).

    Raises:
        ValueError: the rows are not those of such layers.
    """
    if parts == 1:
        return [out]
    sizes = [out // 3] * 3 if parts == 3 else [width] * 3 + [out - 3 * width]
    if sum(sizes) != out or sizes[-1] < 1:
        raise ValueError(f"{out} rows are not those of {parts} layers")
    return sizes


def _keys_by_layer(path: Path, keys: Mapping[str, Shape]) -> dict[str, dict[str, str]]:
    """Sorts the keys of a file by layer and part."""
    layers: dict[str, dict[str, str]] = {}
    for key in keys:
        layer, part = parse_key(path, key)
        if part in layers.setdefault(layer, {}):
            raise ModelError(f"LoRA '{path}' holds {part} of layer {layer} twice, under two names. Fetch it again.")
        layers[layer][part] = key
    return layers


def _layer(path: Path, name: str, down: Shape, up: Shape, alpha: float | None) -> LayerHeader:
    if len(down) != 2 or len(up) != 2 or down[0] != up[1] or not down[0]:
        raise ModelError(
            f"LoRA '{path}' has matrices {list(down)} and {list(up)} in layer {name}. "
            "Expected [rank, in] and [out, rank] of one rank."
        )
    if alpha is not None and not 0 < alpha <= LARGEST:
        raise ModelError(f"LoRA '{path}' has alpha {alpha} in layer {name}. Expected a number above 0.")
    return LayerHeader(up[0], down[1], down[0], float(np.float32(down[0] if alpha is None else alpha)))


def _split_fused(path: Path, stored: Mapping[str, LayerHeader]) -> dict[str, LayerHeader]:
    """Returns the low-rank changes by diffusers' layers, in the order of their names."""
    table, layers = fused_layers(), dict[str, LayerHeader]()
    for name, layer in stored.items():
        pattern, number = unnumbered(name)
        parts = table.get(pattern)
        if parts is None:
            layers[name] = layer
            continue
        try:
            rows = part_rows(layer.out, layer.width, len(parts))
        except ValueError as error:
            raise ModelError(
                f"LoRA '{path}' names fused layers of HunyuanVideo, but their sizes differ ({error}). "
                "Give another file."
            ) from error
        for part, out in zip(parts, rows, strict=True):
            layers[numbered(part, number)] = LayerHeader(out, layer.width, layer.rank, layer.alpha)
    return dict(sorted(layers.items()))


# ---- alphas ----------------------------------------------------------------------------------------------------------


def _stored_alpha(
    path: Path, file: Any, layer: str, key: str, shapes: Mapping[str, Shape], types: Mapping[str, str]
) -> float:
    """Returns the alpha of a layer that the file holds as a tensor of its own."""
    if math.prod(shapes[key]) != 1:
        raise ModelError(f"LoRA '{path}' has an alpha of layer {layer} that is not one number. Fetch it again.")
    return _bfloat16(path, key) if types[key] == "BF16" else float(file.get_tensor(key).item())


def _bfloat16(path: Path, key: str) -> float:
    """Reads a number that numpy has no type for: bfloat16 is the upper half of float32."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        begin = json.loads(file.read(length))[key]["data_offsets"][0]
        file.seek(8 + length + begin)
        return float(struct.unpack("<f", b"\0\0" + file.read(2))[0])


class _Alphas:
    """Finds the alpha of each layer: in its own tensor, else in the metadata."""

    def __init__(self, path: Path, metadata: dict[str, str]) -> None:
        self.path, self.config = path, _adapter_config(path, metadata)

    def of(self, name: str, stored: float | None) -> float | None:
        """Returns a layer's alpha, or None if the file does not state it."""
        if stored is not None:
            return stored
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
