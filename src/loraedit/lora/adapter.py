"""Attaches, reads and writes the LoRA of an edit (peft), and adds further LoRAs to a model.

loraedit writes the one layout that ComfyUI and diffusers both read: safetensors with the names of
:meth:`Family.portable_lora_name`, ``lora_A`` and ``lora_B`` with alpha = rank, so that the scale is 1. The file has no
adapter metadata, because some readers would apply its scale a second time.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers.models.modeling_utils import get_parameter_dtype
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from loraedit.errors import ModelError
from loraedit.families.base import Family
from loraedit.families.lora_linear import LORA_LAYERS
from loraedit.families.quantised import QuantisedLinear, parameter_shapes
from loraedit.lora.matching import MatchedLora, match_lora
from loraedit.lora.reading import read_lora
from loraedit.runtime.host_memory import trim
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
    "stack_matched",
]

ADAPTER = "default"
TRIM_EVERY = 100
"""Modules after which the memory of replaced weights goes back to the system."""


def attach(transformer: nn.Module, targets: Sequence[str], rank: int, seed: int) -> None:
    """Adds fresh float32 LoRA layers (alpha = rank, B = 0) to a frozen transformer, in place.

    Args:
        targets: names of linear layers, as :meth:`Family.lora_targets` returns them.
        seed: determines the random A matrices. The global generator keeps its state.
    """
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=list(targets))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        _inject(config, transformer, ADAPTER)
    _use_all_adapters(transformer)
    for _, parameter in lora_parameters(transformer):
        parameter.data = parameter.data.float()


def lora_parameters(transformer: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Yields the LoRA's parameters with stable names, such as ``blocks.0.attn1.to_q.lora_A``."""
    for module_name, module in transformer.named_modules():
        if isinstance(module, LoraLayer) and ADAPTER in module.lora_A:
            for letter in ("lora_A", "lora_B"):
                yield f"{module_name}.{letter}", getattr(module, letter)[ADAPTER].weight


def as_autocast(transformer: nn.Module) -> None:
    """Converts the frozen float32 linear layers to bfloat16, in place, with the same rounding as autocast."""
    for count, module in enumerate(transformer.modules()):
        if count % TRIM_EVERY == 0:
            trim()
        frozen = isinstance(module, nn.Linear) and not module.weight.requires_grad
        if frozen and module.weight.dtype == torch.float32:
            for parameter in module.parameters(recurse=False):
                parameter.data = parameter.data.to(torch.bfloat16)


def match_precision(transformer: nn.Module, dtype: torch.dtype) -> None:
    """Converts the LoRA to the precision of the model, for use without training."""
    for _, parameter in lora_parameters(transformer):
        parameter.data = parameter.data.to(dtype)


def merge(transformer: nn.Module) -> None:
    """Adds all adapters to the float32 weights under them and removes the adapters, in place.

    Generation then runs plain layers. Layers in other precisions and quantised ones keep their adapters, because the
    sum would be rounded.

    Raises:
        ModelError: the sum overflows.
    """
    for name, module in list(transformer.named_modules()):
        if isinstance(module, LoraLayer) and _precision(module.get_base_layer()) == torch.float32:
            try:
                module.merge(safe_merge=True)  # into a new tensor, because weights are shared: see families.loading
            except ValueError as error:
                reason = "With these LoRAs the weights overflow"
                raise ModelError(f"{reason} in {name}. Give them less weight, or leave one out.") from error
            transformer.set_submodule(name, module.get_base_layer())


def save_lora(
    path: Path,
    family: Family,
    transformer: nn.Module,
    provenance: dict[str, Any],
    dtype: torch.dtype = torch.float32,
) -> None:
    """Writes the LoRA for loraedit, ComfyUI and diffusers.

    Args:
        provenance: how the LoRA was made; stored as the file's metadata.
        dtype: precision of the file.
    """
    tensors: dict[str, Tensor] = {}
    for name, parameter in lora_parameters(transformer):
        module, letter = name.rsplit(".", 1)
        tensors[f"{family.portable_lora_name(module)}.{letter}.weight"] = parameter.detach().to(dtype)
    save_tensors(path, tensors, provenance)


def attach_lora(path: Path, family: Family, transformer: nn.Module) -> None:
    """Adds the LoRA of a file to a frozen transformer, in place.

    Raises:
        ModelError: the file is damaged, or for another transformer.
    """
    tensors = _read(path)
    ends = family.lora_targets("all")
    modules = [name for name, _ in transformer.named_modules() if name.endswith(ends)]
    targets = [name for name in modules if f"{family.portable_lora_name(name)}.lora_A.weight" in tensors]
    attach(transformer, targets or ends, max(_ranks(tensors)), seed=0)
    _copy(tensors, path, family, transformer)


def load_lora(path: Path, family: Family, transformer: nn.Module) -> None:
    """Loads a file into the attached LoRA. If that has a higher rank, the added directions change nothing.

    Raises:
        ModelError: the file is damaged, for another transformer, or of a higher rank than the attached LoRA.
    """
    _copy(_read(path), path, family, transformer)


def stack(transformer: nn.Module, extras: Sequence[tuple[Path, float]]) -> None:
    """Adds LoRA files of any public kind to a bare frozen transformer, in place and in this order.

    Each layer becomes W + sum of weight_i alpha_i / rank_i B_i A_i. The weights W stay unchanged, so nothing is
    rounded; only whole differences, which distilled LoRAs have for norms and biases, are added to parameters. A
    quantised weight with a whole difference is held in full precision from then on.

    Args:
        extras: file and weight of each LoRA.

    Raises:
        ModelError: a file is damaged, or for another transformer.
    """
    shapes = parameter_shapes(transformer)
    stack_matched(transformer, ((_sound(match_lora(read_lora(path), shapes), path), weight) for path, weight in extras))


def stack_matched(transformer: nn.Module, loras: Iterable[tuple[MatchedLora, float]]) -> None:
    """Adds LoRAs that match a transformer as :func:`stack` does; both may be on the meta device.

    Args:
        loras: each LoRA and its weight.
    """
    for index, (lora, weight) in enumerate(loras):
        _add_differences(transformer, lora, weight)
        _add_low_rank(transformer, lora, weight, f"extra{index}")
    _use_all_adapters(transformer)


@torch.no_grad()
def _add_differences(transformer: nn.Module, lora: MatchedLora, weight: float) -> None:
    for name, value in lora.differences.items():
        layer, _, parameter_name = name.rpartition(".")
        module = transformer.get_submodule(layer)
        if isinstance(module, LoraLayer):
            layer, module = f"{layer}.base_layer", module.get_base_layer()
        if isinstance(module, QuantisedLinear) and parameter_name == "weight":
            module = module.expanded(get_parameter_dtype(transformer))
            transformer.set_submodule(layer, module)
        parameter = module.get_parameter(parameter_name)
        parameter.data = parameter.add(value.to(parameter), alpha=weight)  # a new tensor


def _add_low_rank(transformer: nn.Module, lora: MatchedLora, weight: float, adapter: str) -> None:
    """Adds a LoRA as an adapter of its own, in the precision of each layer.

    Rank and alpha are set layer by layer, because peft would search its patterns for them once per pair of layers.
    """
    config = LoraConfig(r=1, target_modules=list(lora.layers))
    keys = {f"{name}.lora_A.weight": layer.down for name, layer in lora.layers.items()}
    _inject(config, transformer, adapter, low_cpu_mem_usage=True, state_dict=keys)
    for name, layer in lora.layers.items():
        module = transformer.get_submodule(name)
        assert isinstance(module, LoraLayer)
        base = module.get_base_layer()
        dtype = _precision(base) or get_parameter_dtype(transformer)
        for part, value in (("lora_A", layer.down), ("lora_B", layer.up)):
            matrix = value.to(next(base.parameters()).device, dtype)
            getattr(module, part)[adapter].weight = nn.Parameter(matrix, requires_grad=False)
        module.r[adapter], module.lora_alpha[adapter] = layer.rank, layer.alpha
        module.set_scale(adapter, weight)


def _precision(layer: nn.Module) -> torch.dtype | None:
    """Returns the precision of a layer's weight; None if it is quantised."""
    return None if isinstance(layer, QuantisedLinear) else layer.get_parameter("weight").dtype


def _inject(config: LoraConfig, transformer: nn.Module, adapter: str, **options: Any) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Already found a `peft_config`")  # several adapters are intended
        warnings.filterwarnings("ignore", message="Unsupported layer type")  # QuantisedLinear, which LORA_LAYERS has
        config._register_custom_module(LORA_LAYERS)
        inject_adapter_in_model(config, transformer, adapter, **options)


def _sound(lora: MatchedLora, path: Path) -> MatchedLora:
    """Returns a LoRA whose values are all finite.

    Raises:
        ModelError: one is not.
    """
    low_rank = ((name, value) for name, layer in lora.layers.items() for value in (layer.down, layer.up))
    for name, value in (*lora.differences.items(), *low_rank):
        if not bool(torch.isfinite(value.float()).all()):
            raise ModelError(f"LoRA '{path}' has values in {name} that are not finite. Fetch it again.")
    return lora


def _use_all_adapters(transformer: nn.Module) -> None:
    """Lets each layer add all its adapters in the order of attaching; only the LoRA of the edit can be trained."""
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
        raise ModelError(f"LoRA '{path}' was made for another model: its layers differ. Give another file.")
    for key, parameter in expected.items():
        _fill(parameter, tensors[key], key.endswith("lora_B.weight"), path)


@torch.no_grad()
def _fill(parameter: nn.Parameter, value: Tensor, up: bool, path: Path) -> None:
    """Copies a matrix into one of at least its rank. In the added directions A stays random and B is 0."""
    rank = value.shape[1 if up else 0]
    capacity = parameter.shape[1 if up else 0]
    inner = (parameter[:, :rank] if up else parameter[:rank]).shape
    if inner != value.shape:
        problem = (
            f"rank {rank}, more than {capacity}"
            if rank > capacity
            else "layers of other sizes: it is for another model"
        )
        raise ModelError(f"LoRA '{path}' has {problem}.")
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
