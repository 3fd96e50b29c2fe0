"""Reads a transformer tensor by tensor, so that its full-precision weights are never in memory together.

A linear layer of the blocks keeps its weight as the file has it or is quantised as soon as it is read. Layers that
modulate norms are not quantised beyond their file. All other tensors (norms, embeddings, modulation tables, the layers
outside the blocks) are in full precision.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from safetensors import safe_open
from torch import Tensor, nn

from loraedit.errors import ModelError
from loraedit.families.file_kinds import GGUF_FULL, Rename, factor_of
from loraedit.families.folder import AGAIN
from loraedit.families.model_card import ModelCard
from loraedit.families.quantised import (
    GgufWeight,
    QuantisedLinear,
    QuantisedWeight,
    ScaledWeight,
    empty_weight,
    quantise,
)
from loraedit.runtime.host_memory import trim
from loraedit.runtime.memory import blocks
from loraedit.settings import WeightStore

__all__ = ["Tensors", "folder_tensors", "kinds_of", "quantise_shapes", "read_transformer", "single_file_tensors"]

Tensors = Iterable[tuple[str, Tensor | QuantisedWeight]]
"""Name in diffusers and value of each tensor of a transformer."""

TRIM_EVERY = 32
"""Tensors after which what quantising them has left goes back to the system."""

Kinds = Callable[[str], str | None]
"""The kind in which to hold a weight, by its name in diffusers; None is full precision."""


MODULATION = re.compile(r"(^|\.)norm\w*\.")
"""Matches the names of layers inside norms, which scale and shift tokens. Errors there reach every token."""


def kinds_of(card: ModelCard, expert: str, weights: WeightStore) -> Kinds:
    """Returns how the weights of an expert's blocks are held: as their file has them, or as the user chose.

    Of two experts, one may be in a quantised file, which stays as it is; see :meth:`ModelCard.may_quantise`.
    """
    stored = card.kinds(expert).get
    if weights == "full":
        return lambda _: None
    if weights == "auto" or not card.may_quantise(expert, weights):
        return stored
    return lambda name: stored(name) if MODULATION.search(name) else weights


def read_transformer(
    kind: Any, config: Mapping[str, Any], tensors: Tensors, held: Kinds, dtype: torch.dtype, device: torch.device
) -> Any:
    """Builds a transformer from its tensors.

    Args:
        kind: the class in diffusers.
        config: its configuration.
        tensors: name and value of each tensor. Names that the class lacks are ignored, as diffusers does.
        held: the kind in which each weight is held.
        dtype: full precision, except for what diffusers keeps in float32.
        device: where weights are quantised, one by one. NF4 takes minutes on a CPU.

    Raises:
        ModelError: a tensor is missing.
    """
    with init_empty_weights(include_buffers=False):
        model = kind.from_config(config)
    layers, precise = _linears(model), _kept_in_float32(model)
    shapes = {name: value.shape for name, value in model.state_dict().items()}
    state: dict[str, Tensor] = {}
    for count, (name, value) in enumerate(tensors):
        if count % TRIM_EVERY == 0:
            trim()
        if name not in shapes:
            continue
        layer, exact = name.removesuffix(".weight"), torch.float32 if precise(name) else dtype
        as_kind = held(name) if layer in layers else None
        if as_kind is not None:
            _install(model, layer, _held_as(value, as_kind, device))
        else:
            full = value.dequantised(exact) if isinstance(value, QuantisedWeight) else value.to(exact)
            state[name] = full.reshape(shapes[name])
    model.load_state_dict(state, assign=True, strict=False)
    missing = [name for name, tensor in model.state_dict().items() if tensor.is_meta]
    if missing:
        raise ModelError(f"The transformer lacks the tensor {min(missing)}. {AGAIN}")
    return model


def _held_as(value: Tensor | QuantisedWeight, kind: str, device: torch.device) -> QuantisedWeight:
    if isinstance(value, QuantisedWeight):
        if value.kind == kind:
            return value
        value = value.dequantised(torch.float32)
    return quantise(value.to(device), kind).to("cpu")


def quantise_shapes(transformer: nn.Module, held: Kinds) -> None:
    """Gives a transformer without contents the layers that :func:`read_transformer` gives one with contents, in place.

    Args:
        transformer: in full precision, on the meta device.
        held: see :func:`kinds_of`.
    """
    for name, layer in _linears(transformer).items():
        kind = held(f"{name}.weight")
        if kind is not None:
            _install(transformer, name, empty_weight(layer.weight.shape, kind, layer.weight.device))


def _linears(transformer: nn.Module) -> dict[str, nn.Linear]:
    """Returns the linear layers that may be quantised: those of the blocks, by name."""
    inside = {id(module) for block in blocks(transformer) for module in block.modules()}
    precise = _kept_in_float32(transformer)
    return {
        name: module
        for name, module in transformer.named_modules()
        if type(module) is nn.Linear and id(module) in inside and not precise(name)
    }


def _kept_in_float32(transformer: nn.Module) -> Callable[[str], bool]:
    parts = set(getattr(transformer, "_keep_in_fp32_modules", None) or ())
    return lambda name: not parts.isdisjoint(name.split("."))


def _install(transformer: nn.Module, name: str, stored: QuantisedWeight) -> None:
    transformer.set_submodule(name, QuantisedLinear(stored, transformer.get_submodule(name).bias))  # type: ignore[arg-type]


# ---- where tensors come from -----------------------------------------------------------------------------------------


def folder_tensors(folder: Path) -> Tensors:
    """Yields the tensors of a component's folder, whose headers were checked before."""
    for path in sorted(folder.glob("*.safetensors")):
        yield from _safetensors(path, lambda name: name)


def single_file_tensors(path: Path, rename: Rename) -> Tensors:
    """Yields the tensors of a single file, as used in ComfyUI, whose header was checked before.

    Args:
        path: ``.safetensors`` in any precision, also scaled fp8, or ``.gguf``.
        rename: maps the file's tensor names to those of diffusers, or to None for a tensor that is not a parameter.
    """
    return _gguf(path, rename) if path.suffix == ".gguf" else _safetensors(path, rename)


def _safetensors(path: Path, rename: Rename) -> Iterator[tuple[str, Tensor | QuantisedWeight]]:
    with safe_open(path, "pt") as file:
        names = dict.fromkeys(file.keys())
    for name in sorted(names):
        key, factor = rename(name), factor_of(name, names)
        if key is None:
            continue
        value, scale = _read(path, name), _read(path, factor) if factor else None
        fp8 = value.dtype in (torch.float8_e4m3fn, torch.float8_e5m2) and name.endswith(".weight")
        yield key, ScaledWeight(value, scale) if fp8 else value


def _read(path: Path, name: str) -> Tensor:
    """Reads one tensor into memory of its own. A file that stays open keeps all that was read of it in memory."""
    with safe_open(path, "pt") as file:
        value: Tensor = file.get_tensor(name)
        return value.clone()


def _gguf(path: Path, rename: Rename) -> Iterator[tuple[str, Tensor | QuantisedWeight]]:
    from gguf import GGUFReader

    for tensor in GGUFReader(path).tensors:
        key, kind = rename(tensor.name), tensor.tensor_type.name
        if key is None:
            continue
        values = torch.from_numpy(tensor.data.copy())  # the file is mapped read-only
        if kind == "BF16":
            values = values.view(torch.bfloat16)
        yield key, values if kind in GGUF_FULL else GgufWeight(values.flatten(0, -2), kind)
