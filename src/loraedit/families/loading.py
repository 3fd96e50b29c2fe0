"""Loads components of a checkpoint and frees them again, for all families."""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import diffusers
import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from loraedit.errors import ModelError
from loraedit.families.folder import AGAIN
from loraedit.families.model_card import ModelCard
from loraedit.runtime.memory import place_encoder
from loraedit.settings import Resources
from loraedit.storage.files import read_json

__all__ = [
    "compute_dtype",
    "free",
    "keep_weights",
    "load_component",
    "load_part",
    "load_pipeline",
    "load_scheduler",
    "loading",
]

_kept: dict[Any, Any] | None = None
"""Components that were read, by checkpoint, component and precision; None if nothing is kept."""


def compute_dtype(device: torch.device) -> torch.dtype:
    """Returns the precision for large models: float32 on a CPU, bfloat16 elsewhere."""
    return torch.float32 if device.type == "cpu" else torch.bfloat16


@contextmanager
def loading(card: ModelCard) -> Iterator[None]:
    """Turns any exception of the libraries on a broken checkpoint into a ModelError of one sentence."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, ModelError):
        raise
    except Exception as error:  # the libraries raise any kind of exception, even a bare Exception
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(f"The checkpoint '{card.folder}' cannot be loaded: {reason}") from error


def keep_weights() -> None:
    """Keeps the components that this process reads from now on in the host's memory, for the next use."""
    global _kept
    _kept = {} if _kept is None else _kept


def load_part(card: ModelCard, kind: Any, name: str, dtype: torch.dtype) -> Any:
    """Loads a component of the checkpoint on the CPU.

    Args:
        kind: its class in diffusers or transformers.
        name: its folder in the checkpoint.
        dtype: precision to load it in.
    """

    def read() -> Any:
        options = {"dtype": dtype, "use_safetensors": True, "output_loading_info": True}
        model, info = kind.from_pretrained(card.folder, subfolder=name, **options)
        if info["missing_keys"]:  # the libraries would use random values
            raise ModelError(f"'{card.folder / name}' lacks the tensor {min(info['missing_keys'])}. {AGAIN}")
        return model

    return _read_once(card, (kind, name, dtype), read)


def load_pipeline(card: ModelCard, kind: Any, absent: Iterable[str], device: torch.device, resources: Resources) -> Any:
    """Loads a diffusers pipeline without some of its components, in the precision of the device.

    Args:
        kind: the pipeline class.
        absent: names of components to leave out.
        device: where the components, which are encoders, should be.
        resources: how the encoders are placed there.
    """
    missing: dict[str, Any] = dict.fromkeys(absent)
    options = {"dtype": compute_dtype(device), "use_safetensors": True, "local_files_only": True}
    with loading(card):
        pipeline = _read_once(
            card, (kind, *missing, options["dtype"]), lambda: kind.from_pretrained(card.folder, **missing, **options)
        )
    for name, part in pipeline.components.items():
        if isinstance(part, nn.Module):
            place_encoder(part, resources, device)
        elif isinstance(part, PreTrainedTokenizerBase) and part.pad_token is None:
            raise ModelError(f"'{card.folder / name}' names no token to pad prompts with. {AGAIN}")
    return pipeline


def _read_once(card: ModelCard, what: tuple[Any, ...], read: Callable[[], Any]) -> Any:
    """Returns the result of ``read``; while weights are kept, components of the last checkpoint are read once.

    Each caller gets a copy that shares the frozen weights. Moving it, hooks, adapters and conversion to another
    precision do not affect the kept component. Weights must not be changed in place.

    Args:
        what: identifies the component and the way of reading it.
        read: reads the component.
    """
    if _kept is None:
        return read()
    checkpoint = card.fingerprint()
    if any(kept != checkpoint for kept, *_ in _kept):
        _kept.clear()
    key = (checkpoint, *what)
    if key not in _kept:
        _kept[key] = read()
    return _sharing_weights(_kept[key])


def _sharing_weights(kept: Any) -> Any:
    parts = [kept] if isinstance(kept, nn.Module) else [*kept.components.values()]
    memo: dict[int, Any] = {}
    for part in parts:
        for parameter in part.parameters() if isinstance(part, nn.Module) else ():
            memo[id(parameter)] = nn.Parameter(parameter.data, requires_grad=parameter.requires_grad)
    return copy.deepcopy(kept, memo)


def free() -> None:
    """Releases memory that is no longer referenced, before the next model loads."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@contextmanager
def load_component(
    card: ModelCard,
    kind: Any,
    name: str,
    device: torch.device,
    dtype: torch.dtype,
    resources: Resources | None = None,
) -> Iterator[Any]:
    """Provides a component of the checkpoint on a device, and frees it at the end.

    Args:
        kind: its class in diffusers or transformers.
        name: its folder in the checkpoint.
        resources: how an encoder is placed there; None places it whole.
    """
    with loading(card):
        model = load_part(card, kind, name, dtype)
    place_encoder(model, resources or Resources(), device)
    try:
        yield model.eval()
    finally:
        del model
        free()


def load_scheduler(card: ModelCard) -> Any:
    """Loads the checkpoint's own scheduler (UniPC, FlowMatchEuler, ...) with its flow shift; timesteps are not set."""
    with loading(card):
        config = read_json(card.folder / "scheduler/scheduler_config.json")
        kind = getattr(diffusers, config["_class_name"])
        if not issubclass(kind, diffusers.SchedulerMixin):
            raise TypeError(f"{kind.__name__} is not a scheduler of diffusers")
        return kind.from_pretrained(card.folder, subfolder="scheduler")
