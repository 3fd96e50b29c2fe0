"""Attach, read and write the LoRA of an edit (peft), and lay others over a model.

Our file is of the one layout that ComfyUI and diffusers both read: safetensors, native layer names under
``diffusion_model.``, ``lora_A`` and ``lora_B`` with alpha = rank, so that the scale is 1 and nothing needs folding; no
adapter metadata, which some readers would apply a second time.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from loraedit.errors import ModelError
from loraedit.families.base import Family
from loraedit.families.lora_linear import LORA_LAYERS
from loraedit.lora.files import Fit, fit, read_lora
from loraedit.storage.files import save_tensors

__all__ = [
    "as_autocast",
    "attach",
    "attach_lora",
    "load_lora",
    "lora_parameters",
    "match_precision",
    "merge",
    "save_lora",
    "stack",
]

ADAPTER = "default"
FLOATS = (torch.float32, torch.bfloat16, torch.float16)


def attach(transformer: nn.Module, targets: Sequence[str], rank: int, seed: int) -> None:
    """Put fresh float32 LoRA layers (alpha = rank, B = 0) into a frozen transformer, in place.

    Args:
        targets: names of the linear layers of a block, as :meth:`Family.lora_targets` gives them.
        seed: decides the random A matrices; the global generator is left as it was.
    """
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=list(targets))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        _inject(config, transformer, ADAPTER)
    _use_all_adapters(transformer)
    for _, parameter in lora_parameters(transformer):
        parameter.data = parameter.data.float()


def lora_parameters(transformer: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """The LoRA's parameters by stable names, such as ``blocks.0.attn1.to_q.lora_A``."""
    for module_name, module in transformer.named_modules():
        if isinstance(module, LoraLayer) and ADAPTER in module.lora_A:
            for letter in ("lora_A", "lora_B"):
                yield f"{module_name}.{letter}", getattr(module, letter)[ADAPTER].weight


def as_autocast(transformer: nn.Module) -> None:
    """Turn the frozen float32 linears to bfloat16, in place: the same bytes as autocast makes of them."""
    for module in transformer.modules():
        frozen = isinstance(module, nn.Linear) and not module.weight.requires_grad
        if frozen and module.weight.dtype == torch.float32:
            module.to(torch.bfloat16)


def match_precision(transformer: nn.Module, dtype: torch.dtype) -> None:
    """Give the LoRA the precision that the model computes in; for use without training."""
    for _, parameter in lora_parameters(transformer):
        parameter.data = parameter.data.to(dtype)


def merge(transformer: nn.Module) -> None:
    """Add all adapters to the float32 weights under them and take them off, in place; other layers stay as they are.

    Generation then runs plain layers. In float32 the sum loses nothing that counts; half precision would round it.

    Raises:
        ModelError: the sum overflows.
    """
    for name, module in list(transformer.named_modules()):
        if isinstance(module, LoraLayer) and module.get_base_layer().weight.dtype == torch.float32:
            try:
                module.merge(safe_merge=True)  # into a new tensor: see families.loading
            except ValueError as error:
                reason = "With the LoRAs the weights are so large that they are no longer numbers"
                raise ModelError(f"{reason} in {name}. Give them less weight, or leave one out.") from error
            transformer.set_submodule(name, module.get_base_layer())


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


def stack(transformer: nn.Module, extras: Sequence[tuple[Path, float]]) -> None:
    """Lay LoRA files of any public kind over a bare frozen transformer, in place and in this order.

    Each layer becomes W + sum of weight_i alpha_i / rank_i B_i A_i. The weights themselves stay as they are, so that
    nothing is rounded; only whole differences (of norms and biases, as distilled LoRAs have them) are added.

    Args:
        extras: file and weight of each.

    Raises:
        ModelError: a file is damaged, or does not fit this transformer.
    """
    shapes = {name: tuple(parameter.shape) for name, parameter in transformer.named_parameters()}
    for index, (path, weight) in enumerate(extras):
        fitting = fit(read_lora(path), shapes)
        _add_whole(transformer, fitting, weight, path)
        _add_low_rank(transformer, fitting, weight, f"extra{index}", path)
    _use_all_adapters(transformer)


@torch.no_grad()
def _add_whole(transformer: nn.Module, fitting: Fit, weight: float, path: Path) -> None:
    for name, value in fitting.whole.items():
        layer, _, own = name.rpartition(".")
        module = transformer.get_submodule(layer)
        module = module.get_base_layer() if isinstance(module, LoraLayer) else module
        parameter = module.get_parameter(own)
        parameter.data = parameter.add(_finite(value, name, path).to(parameter), alpha=weight)  # see families.loading


def _add_low_rank(transformer: nn.Module, fitting: Fit, weight: float, adapter: str, path: Path) -> None:
    """An adapter of its own, in the precision of each layer.

    Rank and alpha are set layer by layer: peft's patterns for them would be searched once for each pair of layers.
    """
    config = LoraConfig(r=1, target_modules=list(fitting.layers))
    keys = {f"{name}.lora_A.weight": layer.down for name, layer in fitting.layers.items()}
    _inject(config, transformer, adapter, low_cpu_mem_usage=True, state_dict=keys)
    for name, layer in fitting.layers.items():
        module = transformer.get_submodule(name)
        assert isinstance(module, LoraLayer)
        base = module.get_base_layer().get_parameter("weight")
        dtype = base.dtype if base.dtype in FLOATS else torch.bfloat16
        for part, value in (("lora_A", layer.down), ("lora_B", layer.up)):
            matrix = _finite(value, name, path).to(base.device, dtype)
            getattr(module, part)[adapter].weight = nn.Parameter(matrix, requires_grad=False)
        module.r[adapter], module.lora_alpha[adapter] = layer.rank, layer.alpha
        module.set_scale(adapter, weight)


def _inject(config: LoraConfig, transformer: nn.Module, adapter: str, **options: Any) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Already found a `peft_config`")  # several adapters are meant
        config._register_custom_module(LORA_LAYERS)
        inject_adapter_in_model(config, transformer, adapter, **options)


def _finite(value: Tensor, name: str, path: Path) -> Tensor:
    if not bool(torch.isfinite(value.float()).all()):
        raise ModelError(f"LoRA '{path}' has values in {name} that are no numbers. Fetch it again.")
    return value


def _use_all_adapters(transformer: nn.Module) -> None:
    """Each layer adds all its adapters in the order they came; the one of this edit alone can be trained."""
    for module in transformer.modules():
        if isinstance(module, LoraLayer):
            module.set_adapter(list(module.lora_A), inference_mode=True)
    for _, parameter in lora_parameters(transformer):
        parameter.requires_grad_(True)


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
