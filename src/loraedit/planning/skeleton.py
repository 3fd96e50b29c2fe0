"""Builds the modules of a model without its weights: at the true size, with tensors that have no contents."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import torch
import transformers
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from loraedit.families.card import ModelCard
from loraedit.families.record import FamilyRecord
from loraedit.families.registry import record_of
from loraedit.storage.files import read_json

__all__ = ["build", "component_config", "without_contents"]

HALF = torch.bfloat16


def component_config(card: ModelCard, name: str) -> tuple[Any, dict[str, Any]]:
    """Returns class and configuration of a component, from its folder or the single file in its place."""
    library, kind = read_json(card.folder / "model_index.json")[name]
    return _find_class(record_of(card.pipeline), library, kind), card.config(name)


def _find_class(record: FamilyRecord, library: str, kind: str) -> Any:
    return getattr(import_module(record.modules[library]), kind)


def build(card: ModelCard, name: str, dtype: torch.dtype = HALF) -> Any:
    """Builds a frozen component of the true architecture on the meta device.

    Args:
        dtype: precision of the parameters, except those that the library keeps in float32.
    """
    kind, config = component_config(card, name)
    with torch.device("meta"):
        if issubclass(kind, transformers.PreTrainedModel):
            module, kept = kind(kind.config_class(**config)), kind._keep_in_fp32_modules_strict
        else:
            module, kept = kind.from_config(config), getattr(kind, "_keep_in_fp32_modules", None)
    for path, parameter in module.named_parameters():
        precise = any(part in path.split(".") for part in kept or ())
        parameter.data = parameter.data.to(torch.float32 if precise else dtype)
    return module.eval().requires_grad_(False)


def without_contents(module: nn.Module, mode: FakeTensorMode) -> None:
    """Replaces a module's meta tensors by fake CPU tensors, in place; tied parameters stay tied."""
    with mode:
        fakes = {
            parameter: nn.Parameter(torch.empty(parameter.shape, dtype=parameter.dtype), parameter.requires_grad)
            for parameter in module.parameters()
        }
        for part in module.modules():
            for name, parameter in part._parameters.items():
                if parameter is not None:
                    part._parameters[name] = fakes[parameter]
            for name, buffer in part._buffers.items():
                if buffer is not None:
                    part._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype)
