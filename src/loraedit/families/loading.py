"""Loads components of a checkpoint and frees them again, for all families."""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import diffusers
import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from loraedit.errors import ModelError
from loraedit.families.file_kinds import Rename
from loraedit.families.folder import AGAIN
from loraedit.families.frozen_weights import folder_tensors, kinds_of, read_transformer, single_file_tensors
from loraedit.families.kept_weights import Keep, read_once
from loraedit.families.model_card import ModelCard
from loraedit.families.weights_check import check_loaded
from loraedit.runtime.block_swap import pack_blocks
from loraedit.runtime.devices import converts_weights, on_cpu
from loraedit.runtime.host_memory import trim
from loraedit.runtime.memory import blocks, place_encoder
from loraedit.settings import Resources
from loraedit.storage.files import read_json

__all__ = [
    "compute_dtype",
    "free",
    "load_encoder",
    "load_pipeline",
    "load_scheduler",
    "load_transformer",
    "load_vae",
    "loading",
]


def compute_dtype(device: torch.device) -> torch.dtype:
    """Returns the precision for large models: float32 on a CPU, bfloat16 elsewhere."""
    return torch.float32 if on_cpu(device) else torch.bfloat16


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


def load_transformer(
    card: ModelCard, kind: Any, name: str, device: torch.device, resources: Resources, rename: Rename = str
) -> nn.Module:
    """Loads a transformer on the CPU, frozen, in the precision of the device; its weights may be quantised.

    It stays in host memory for its next use, unless the resources say otherwise.

    Args:
        kind: its class in diffusers.
        name: its folder in the checkpoint; the card may name a single file in its place.
        device: where it will compute.
        resources: whether to keep it, and how the weights of its blocks are held.
        rename: maps the tensor names of a single file to those of diffusers, see :func:`single_file_tensors`.
    """
    dtype, weights, file = compute_dtype(device), resources.weights, card.files.get(name)

    def read() -> Any:
        if file is None and weights in ("auto", "full"):
            return _prepared(_read_part(card, kind, name, dtype), device, resources)
        tensors = single_file_tensors(file.path, rename) if file else folder_tensors(card.folder / name)
        model = read_transformer(kind, card.config(name), tensors, kinds_of(card, name, weights), dtype, device)
        return _prepared(model, device, resources)

    keep: Keep = "never" if resources.reload_weights else "within edits"
    variant = kind, dtype, weights, str(device), resources.swap_blocks
    with loading(card):
        transformer: nn.Module = read_once(card, name, variant, read, keep)
    return transformer


def _prepared(transformer: nn.Module, device: torch.device, resources: Resources) -> nn.Module:
    """Prepares a transformer that was just read, in place and before it is kept: all copies share what this leaves."""
    transformer.eval().requires_grad_(False)
    if resources.swap_blocks and not converts_weights(device):
        pack_blocks(list(blocks(transformer)), resources.swap_blocks, device)
    trim()
    return transformer


def _read_part(card: ModelCard, kind: Any, name: str, dtype: torch.dtype) -> Any:
    """Reads a component of the checkpoint."""
    model = kind.from_pretrained(card.folder, subfolder=name, dtype=dtype, use_safetensors=True)
    check_loaded(model, card.folder / name)
    return model


def _read_pipeline(card: ModelCard, kind: Any, absent: Iterable[str], dtype: torch.dtype) -> Any:
    """Reads a pipeline of the checkpoint without some of its components."""
    missing: dict[str, Any] = dict.fromkeys(absent)
    options = {"dtype": dtype, "use_safetensors": True, "local_files_only": True}
    pipeline = kind.from_pretrained(card.folder, **missing, **options)
    for name, part in pipeline.components.items():
        if isinstance(part, nn.Module):
            check_loaded(part, card.folder / name)
    return pipeline


def load_pipeline(card: ModelCard, kind: Any, absent: Iterable[str], device: torch.device, resources: Resources) -> Any:
    """Loads a diffusers pipeline without some of its components, in the precision of the device.

    Args:
        kind: the pipeline class.
        absent: names of components to leave out.
        device: where the components, which are encoders, should be.
        resources: how the encoders are placed there.
    """
    left_out, dtype = tuple(absent), compute_dtype(device)
    with loading(card):
        read = partial(_read_pipeline, card, kind, left_out, dtype)
        pipeline = read_once(card, (kind, *left_out), dtype, read, keep="between edits")
    for name, part in pipeline.components.items():
        if isinstance(part, nn.Module):
            place_encoder(part, resources, device)
        elif isinstance(part, PreTrainedTokenizerBase) and part.pad_token is None:
            raise ModelError(f"'{card.folder / name}' names no token to pad prompts with. {AGAIN}")
    return pipeline


def free() -> None:
    """Releases memory that is no longer referenced, before the next model loads."""
    gc.collect()
    trim()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@contextmanager
def load_vae(card: ModelCard, kind: Any, device: torch.device) -> Iterator[Any]:
    """Provides the VAE on a device in float32, and frees it there at the end.

    Args:
        kind: its class in diffusers.
    """
    with loading(card):
        read = partial(_read_part, card, kind, "vae", torch.float32)
        vae = read_once(card, "vae", kind, read, keep="within edits")
    vae.to(device)
    try:
        yield vae.eval()
    finally:
        del vae
        free()


@contextmanager
def load_encoder(card: ModelCard, kind: Any, name: str, device: torch.device, resources: Resources) -> Iterator[Any]:
    """Provides a text or image encoder on a device in the precision of the device, and frees it at the end.

    Args:
        kind: its class in transformers.
        name: its folder in the checkpoint.
        resources: how it is placed there.
    """
    dtype = compute_dtype(device)
    with loading(card):
        read = partial(_read_part, card, kind, name, dtype)
        encoder = read_once(card, name, (kind, dtype), read, keep="between edits")
    place_encoder(encoder, resources, device)
    try:
        yield encoder.eval()
    finally:
        del encoder
        free()


def load_scheduler(card: ModelCard) -> Any:
    """Loads the checkpoint's own scheduler (UniPC, FlowMatchEuler, ...) with its flow shift; timesteps are not set."""
    with loading(card):
        config = read_json(card.folder / "scheduler/scheduler_config.json")
        kind = getattr(diffusers, config["_class_name"])
        if not issubclass(kind, diffusers.SchedulerMixin):
            raise TypeError(f"{kind.__name__} is not a scheduler of diffusers")
        return kind.from_pretrained(card.folder, subfolder="scheduler")
