"""Attach, read and write LoRAs (peft), in the one file layout that ComfyUI and diffusers both read.

The file: safetensors, native layer names under ``diffusion_model.``, ``lora_A`` and ``lora_B`` with alpha = rank, so
that the scale is 1 and nothing needs folding; no adapter metadata, which some readers would apply a second time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from loraedit.errors import ModelError
from loraedit.families.base import Family
from loraedit.files import save_tensors

__all__ = ["attach", "attach_lora", "load_lora", "lora_parameters", "save_lora"]

ADAPTER = "default"


def attach(transformer: nn.Module, targets: Sequence[str], rank: int, seed: int) -> None:
    """Put fresh float32 LoRA layers (alpha = rank, B = 0) into a frozen transformer, in place.

    Args:
        targets: names of the linear layers of a block, as :meth:`Family.lora_targets` gives them.
        seed: decides the random A matrices; the global generator is left as it was.
    """
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=list(targets))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        inject_adapter_in_model(config, transformer, ADAPTER)
    for _, parameter in lora_parameters(transformer):
        parameter.data = parameter.data.float()


def lora_parameters(transformer: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """The LoRA's parameters by stable names, such as ``blocks.0.attn1.to_q.lora_A``."""
    for module_name, module in transformer.named_modules():
        if isinstance(module, BaseTunerLayer):
            for letter in ("lora_A", "lora_B"):
                yield f"{module_name}.{letter}", getattr(module, letter)[ADAPTER].weight


def save_lora(
    path: Path,
    family: Family,
    transformer: nn.Module,
    provenance: dict[str, Any],
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write the LoRA for loraedit, ComfyUI and diffusers.

    Args:
        provenance: what made it, stored as the file's metadata.
        dtype: precision of the file.
    """
    tensors: dict[str, Tensor] = {}
    for name, parameter in lora_parameters(transformer):
        module, letter = name.rsplit(".", 1)
        tensors[f"{family.portable_lora_name(module)}.{letter}.weight"] = parameter.detach().to(dtype)
    save_tensors(path, tensors, provenance)


def attach_lora(path: Path, family: Family, transformer: nn.Module) -> None:
    """Put the LoRA of a file into a frozen transformer, in place.

    Raises:
        ModelError: the file is damaged, or does not fit this transformer.
    """
    tensors = _read(path)
    ends = family.lora_targets("all")
    modules = [name for name, _ in transformer.named_modules() if name.endswith(ends)]
    targets = [name for name in modules if f"{family.portable_lora_name(name)}.lora_A.weight" in tensors]
    attach(transformer, targets or ends, max(_ranks(tensors)), seed=0)
    _copy(tensors, path, family, transformer)


def load_lora(path: Path, family: Family, transformer: nn.Module) -> None:
    """Load a file into the LoRA that is attached; a higher rank than the file's is filled up without changing it.

    Raises:
        ModelError: the file is damaged, does not fit this transformer, or has a higher rank.
    """
    _copy(_read(path), path, family, transformer)


def _copy(tensors: dict[str, Tensor], path: Path, family: Family, transformer: nn.Module) -> None:
    expected = {}
    for name, parameter in lora_parameters(transformer):
        module, letter = name.rsplit(".", 1)
        expected[f"{family.portable_lora_name(module)}.{letter}.weight"] = parameter
    if expected.keys() != tensors.keys():
        raise ModelError(f"LoRA '{path}' was made for another model: its layers differ.")
    for key, parameter in expected.items():
        _fill(parameter, tensors[key], key.endswith("lora_B.weight"), path)


@torch.no_grad()
def _fill(parameter: nn.Parameter, value: Tensor, up: bool, path: Path) -> None:
    """Copy a matrix into one of at least its rank. What the added rank reads stays random, what it writes is 0."""
    rank = value.shape[1 if up else 0]
    room = parameter.shape[1 if up else 0]
    inner = (parameter[:, :rank] if up else parameter[:rank]).shape
    if inner != value.shape:
        what = f"rank {rank}, more than {room}" if rank > room else "layers of other sizes: it is of another model"
        raise ModelError(f"LoRA '{path}' has {what}.")
    if up:
        parameter.zero_()
        parameter[:, :rank] = value
    else:
        parameter[:rank] = value


def _ranks(tensors: dict[str, Tensor]) -> set[int]:
    return {value.shape[0] for key, value in tensors.items() if key.endswith("lora_A.weight")}


def _read(path: Path) -> dict[str, Tensor]:
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"LoRA file '{path}' cannot be read as safetensors. Delete it to train it again.") from error
    if not _ranks(tensors):
        raise ModelError(f"'{path}' holds no LoRA.")
    return tensors
