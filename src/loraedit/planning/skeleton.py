"""Models without their weights: configurations, and modules of the true size whose tensors have no contents."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from loraedit.errors import ModelError
from loraedit.families.card import NANO, ModelCard, read_configuration
from loraedit.families.known import KnownModel, known_models
from loraedit.families.record import FamilyRecord
from loraedit.families.registry import record_of
from loraedit.storage.files import read_json, write_json

__all__ = ["build", "component_config", "known_names", "open_skeleton", "without_contents"]

HALF = torch.bfloat16


def known_names() -> list[str]:
    """Returns the short names of the published models, such as ``wan2.1-i2v-14b-480p``."""
    return [_short_name(model) for model in known_models()]


@contextmanager
def open_skeleton(model: str) -> Iterator[ModelCard]:
    """Returns the model card of a model whose weights may be absent.

    Args:
        model: ``nano``, a checkpoint folder, or a published model by its Hub id or short name.

    Raises:
        ModelError: the name is none of these, or no family can run the model.
    """
    folder = NANO if model == "nano" else Path(model)
    known = next((row for row in known_models() if model.lower() in (row.id.lower(), _short_name(row))), None)
    if known is None and not folder.is_dir():
        names = ", ".join(["nano", *known_names()])
        raise ModelError(
            f"Model '{model}' is neither a folder nor a known model. Give a checkpoint folder, or one of {names}."
        )
    if known is None:
        yield read_configuration(folder)
        return
    with tempfile.TemporaryDirectory(prefix="loraedit-") as place:
        _write(known, Path(place))
        yield read_configuration(Path(place))


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


def _short_name(model: KnownModel) -> str:
    return model.id.split("/")[1].lower().removesuffix("-diffusers")


def _write(model: KnownModel, folder: Path) -> None:
    """Writes the small JSON files of a checkpoint."""
    modules = record_of(model.pipeline).modules
    index: dict[str, Any] = {"_class_name": model.index_class or model.pipeline, **model.options}
    for name, component in model.components.items():
        library = next(name for name, path in modules.items() if hasattr(import_module(path), component.kind))
        index[name] = [library, component.kind]
        write_json(folder / name / "config.json", {"_class_name": component.kind, **component.config})
    scheduler, config = model.scheduler
    index["scheduler"] = ["diffusers", scheduler]
    write_json(folder / "scheduler/scheduler_config.json", {"_class_name": scheduler, **config})
    for path, content in model.files.items():
        write_json(folder / path, content)
    write_json(folder / "loraedit.json", {"area_px": model.width * model.height})
    write_json(folder / "model_index.json", index)
