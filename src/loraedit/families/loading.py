"""Loading parts of a checkpoint, one at a time, and freeing them again: what every family needs."""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import diffusers
import torch

from loraedit.errors import ModelError
from loraedit.families.model_card import ModelCard

__all__ = ["compute_dtype", "free", "load_component", "load_scheduler", "loading"]


def compute_dtype(device: torch.device) -> torch.dtype:
    """What a large model computes in: float32 on a CPU, bfloat16 elsewhere."""
    return torch.float32 if device.type == "cpu" else torch.bfloat16


@contextmanager
def loading(card: ModelCard) -> Iterator[None]:
    """Turn what the libraries raise on a broken checkpoint into one sentence."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(f"The checkpoint '{card.folder}' cannot be loaded: {reason}") from error


def free() -> None:
    """Give back what is no longer referred to, before the next model loads."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@contextmanager
def load_component(card: ModelCard, kind: Any, name: str, device: torch.device, dtype: torch.dtype) -> Iterator[Any]:
    """A model of the checkpoint on a device, freed at the end.

    Args:
        kind: its class, of diffusers or transformers.
        name: its folder in the checkpoint.
    """
    with loading(card):
        model = kind.from_pretrained(card.folder, subfolder=name, dtype=dtype, use_safetensors=True)
    try:
        yield model.to(device).eval()
    finally:
        del model
        free()


def load_scheduler(card: ModelCard) -> Any:
    """The checkpoint's own scheduler (UniPC, FlowMatchEuler, ...) with its own flow shift, no timesteps set yet."""
    with loading(card):
        config = json.loads((card.folder / "scheduler/scheduler_config.json").read_text(encoding="utf-8"))
        kind = getattr(diffusers, config["_class_name"])
        if not issubclass(kind, diffusers.SchedulerMixin):
            raise TypeError(f"{kind.__name__} is not a scheduler of diffusers")
        return kind.from_pretrained(card.folder, subfolder="scheduler")
