"""Loading parts of a checkpoint, one at a time, and freeing them again: what every family needs."""

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
"""What has been read, by what it was read from; None if nothing is kept."""


def compute_dtype(device: torch.device) -> torch.dtype:
    """What a large model computes in: float32 on a CPU, bfloat16 elsewhere."""
    return torch.float32 if device.type == "cpu" else torch.bfloat16


@contextmanager
def loading(card: ModelCard) -> Iterator[None]:
    """Turn what the libraries raise on a broken checkpoint into one sentence."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, ModelError):
        raise
    except Exception as error:  # the libraries raise whatever they happen to meet, some of them a bare Exception
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(f"The checkpoint '{card.folder}' cannot be loaded: {reason}") from error


def keep_weights() -> None:
    """From now on keep in the host's memory what this process reads of a checkpoint, for whoever asks next."""
    global _kept
    _kept = {} if _kept is None else _kept


def load_part(card: ModelCard, kind: Any, name: str, dtype: torch.dtype) -> Any:
    """A model of the checkpoint, on the CPU.

    Args:
        kind: its class, of diffusers or transformers.
        name: its folder in the checkpoint.
    """

    def read() -> Any:
        how = {"dtype": dtype, "use_safetensors": True, "output_loading_info": True}
        model, found = kind.from_pretrained(card.folder, subfolder=name, **how)
        if found["missing_keys"]:  # the libraries would go on with random values
            raise ModelError(f"'{card.folder / name}' lacks the tensor {min(found['missing_keys'])}. {AGAIN}")
        return model

    return _read_once(card, (kind, name, dtype), read)


def load_pipeline(card: ModelCard, kind: Any, absent: Iterable[str], device: torch.device, resources: Resources) -> Any:
    """A pipeline of diffusers without some of its components, in the precision of the device.

    Args:
        kind: its class.
        resources: how its models, which are encoders, are brought to the device.
    """
    missing: dict[str, Any] = dict.fromkeys(absent)
    how = {"dtype": compute_dtype(device), "use_safetensors": True, "local_files_only": True}
    with loading(card):
        pipeline = _read_once(
            card, (kind, *missing, how["dtype"]), lambda: kind.from_pretrained(card.folder, **missing, **how)
        )
    for name, part in pipeline.components.items():
        if isinstance(part, nn.Module):
            place_encoder(part, resources, device)
        elif isinstance(part, PreTrainedTokenizerBase) and part.pad_token is None:
            raise ModelError(f"'{card.folder / name}' names no token to pad prompts with. {AGAIN}")
    return pipeline


def _read_once(card: ModelCard, what: tuple[Any, ...], read: Callable[[], Any]) -> Any:
    """What ``read`` gives; while weights are kept, those of the last checkpoint are read once.

    Everyone gets an object of his own, which shares the frozen weights: moving it, hooks, adapters and other precision
    leave what is kept as it was. Weights may not be changed in place.

    Args:
        what: what of the checkpoint, and how.
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
    """Give back what is no longer referred to, before the next model loads."""
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
    """A model of the checkpoint on a device, freed at the end.

    Args:
        kind: its class, of diffusers or transformers.
        name: its folder in the checkpoint.
        resources: how an encoder is brought there; None is whole.
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
    """The checkpoint's own scheduler (UniPC, FlowMatchEuler, ...) with its own flow shift, no timesteps set yet."""
    with loading(card):
        config = read_json(card.folder / "scheduler/scheduler_config.json")
        kind = getattr(diffusers, config["_class_name"])
        if not issubclass(kind, diffusers.SchedulerMixin):
            raise TypeError(f"{kind.__name__} is not a scheduler of diffusers")
        return kind.from_pretrained(card.folder, subfolder="scheduler")
