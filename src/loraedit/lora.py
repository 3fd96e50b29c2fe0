"""Attach, read and write LoRAs (peft), in the one file layout that ComfyUI and diffusers both read.

The file: safetensors, native layer names under ``diffusion_model.``, ``lora_A`` and ``lora_B`` with alpha = rank, so
that the scale is 1 and nothing needs folding; no adapter metadata, which some readers would apply a second time.
"""

from __future__ import annotations

from collections.abc import Iterator
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

__all__ = ["attach", "load_lora", "lora_parameters", "save_lora"]

ADAPTER = "default"


def attach(family: Family, transformer: nn.Module, rank: int, seed: int) -> None:
    """Put fresh float32 LoRA layers (alpha = rank, B = 0) into a frozen transformer, in place.

    Args:
        seed: decides the random A matrices; the global generator is left as it was.
    """
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=list(family.lora_targets))
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


def save_lora(path: Path, family: Family, transformer: nn.Module, provenance: dict[str, Any]) -> None:
    """Write the LoRA for loraedit, ComfyUI and diffusers.

    Args:
        provenance: what made it, stored as the file's metadata.
    """
    tensors: dict[str, Tensor] = {}
    for name, parameter in lora_parameters(transformer):
        module, letter = name.rsplit(".", 1)
        tensors[f"{family.portable_lora_name(module)}.{letter}.weight"] = parameter.detach()
    save_tensors(path, tensors, provenance)


def load_lora(path: Path, family: Family, transformer: nn.Module) -> None:
    """Attach the LoRA in a file that :func:`save_lora` wrote.

    Raises:
        ModelError: the file is damaged, or does not fit this transformer.
    """
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"LoRA file '{path}' cannot be read as safetensors. Delete it to train it again.") from error
    first = next(iter(sorted(key for key in tensors if key.endswith("lora_A.weight"))), None)
    if first is None:
        raise ModelError(f"'{path}' holds no LoRA.")
    attach(family, transformer, rank=tensors[first].shape[0], seed=0)
    expected = {}
    for name, parameter in lora_parameters(transformer):
        module, letter = name.rsplit(".", 1)
        expected[f"{family.portable_lora_name(module)}.{letter}.weight"] = parameter
    if {k: v.shape for k, v in expected.items()} != {k: v.shape for k, v in tensors.items()}:
        raise ModelError(f"LoRA '{path}' was made for another model: its layers or sizes differ.")
    for key, parameter in expected.items():
        parameter.data.copy_(tensors[key])
