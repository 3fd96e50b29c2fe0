"""Fits models into a device's memory with the libraries' own means, chosen by :class:`loraedit.settings.Resources`.

A transformer is loaded on the CPU, gets its LoRA, and is then placed on the device. The LoRA always stays on the
device: it is small, and its gradients and optimiser moments live where it does.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from diffusers.hooks.group_offloading import (
    GroupOffloadingConfig,
    GroupOffloadingHook,
    GroupOffloadingType,
    ModuleGroup,
    apply_group_offloading,
)
from diffusers.hooks.hooks import HookRegistry
from torch import nn

from loraedit.errors import InputError
from loraedit.runtime.distributed import share_blocks
from loraedit.runtime.ranks import processes
from loraedit.settings import Resources

__all__ = ["FP8", "blocks", "checkpoints_kept", "place", "place_encoder", "tile"]

FP8 = torch.float8_e4m3fn
STREAMING = ("cuda", "xpu")
"""Kinds of devices that can copy while they compute."""


def place(transformer: Any, resources: Resources, device: torch.device) -> None:
    """Brings a frozen transformer, with its LoRA if it has one, to the device, in place.

    Raises:
        InputError: the attention backend is not available.
    """
    if resources.weights == "fp8":
        transformer.enable_layerwise_casting(storage_dtype=FP8, compute_dtype=transformer.dtype)
    if resources.offload_blocks:
        _offload_blocks(transformer, device)
    elif processes() > 1:
        share_blocks(transformer, blocks(transformer), device)
    else:
        transformer.to(device)
    if resources.recomputes:
        transformer.enable_gradient_checkpointing()
    if resources.attention is not None:
        _set_attention(transformer, resources.attention)
    if resources.compile_blocks:
        transformer.compile_repeated_blocks(fullgraph=not resources.offload_blocks and resources.weights == "full")


def place_encoder(encoder: nn.Module, resources: Resources, device: torch.device) -> None:
    """Brings a text or image encoder to the device, in place. If offloaded, one layer at a time is there."""
    if resources.offload_encoders and device.type != "cpu":
        apply_group_offloading(encoder, device, offload_type="leaf_level", use_stream=device.type in STREAMING)
    else:
        encoder.to(device)


def tile(vae: Any, resources: Resources, height: int, width: int) -> None:
    """Makes a VAE work in tiles of its own size, if the resources ask for it.

    No tile is narrower than two latent cells: some VAEs pad by reflection, which a single row of cells does not allow.

    Args:
        vae: a VAE of diffusers, changed in place.
        resources: whether to use tiles.
        height: height of the frames, in pixels.
        width: width of the frames, in pixels.
    """
    if not resources.tile_vae:
        return
    vae.enable_tiling()
    cell = int(vae.spatial_compression_ratio)
    for side, extent in (("height", height), ("width", width)):
        stride = getattr(vae, f"tile_sample_stride_{side}", None)
        if stride is not None:
            setattr(vae, f"tile_sample_stride_{side}", cell * _without_slivers(stride // cell, extent // cell))


def _without_slivers(stride: int, cells: int) -> int:
    """Returns the longest stride up to ``stride`` whose last tile has more than one of the ``cells`` cells."""
    candidates = range(stride, 1, -1)
    return next((length for length in candidates if cells == 1 or (cells - 1) % length), stride)


def checkpoints_kept(resources: Resources, device: torch.device) -> AbstractContextManager[Any]:
    """Returns a context in which a forward pass keeps the inputs of its gradients in host memory, if offloaded."""
    if not resources.offload_checkpoints:
        return nullcontext()
    return torch.autograd.graph.save_on_cpu(pin_memory=device.type == "cuda", device_type=device.type)


def blocks(transformer: nn.Module) -> Iterator[nn.Module]:
    """Yields the repeated blocks of a transformer, in order."""
    for child in transformer.children():
        if isinstance(child, nn.ModuleList):
            yield from child


def _set_attention(transformer: Any, backend: str) -> None:
    """Sets the attention backend of this model alone; diffusers' method also changes the default of the process."""
    from diffusers.models.attention_dispatch import _AttentionBackendRegistry

    if backend.endswith("_hub"):
        raise InputError(f"The attention backend '{backend}' would download and run code. Choose an installed one.")
    default, _ = _AttentionBackendRegistry.get_active_backend()
    try:
        transformer.set_attention_backend(backend)
    except (ValueError, RuntimeError, ImportError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise InputError(f"The attention backend '{backend}' cannot be used: {reason}. Remove --attention.") from error
    finally:
        _AttentionBackendRegistry.set_active_backend(default)


def _offload_blocks(transformer: nn.Module, device: torch.device) -> None:
    """Applies diffusers' group offloading to the frozen weights of each block; the rest goes to the device.

    The groups are built here to leave out the LoRA. If it were offloaded too, it would be on the CPU when its
    gradients arrive. Nothing is prefetched, because gradients run through the blocks backwards.
    """
    host = torch.device("cpu")
    stream = getattr(torch, device.type).Stream(device) if device.type in STREAMING else None
    config = GroupOffloadingConfig(
        onload_device=device, offload_device=host, offload_type=GroupOffloadingType.BLOCK_LEVEL, non_blocking=False,
        record_stream=False, low_cpu_mem_usage=False, stream=stream,
    )  # fmt: skip
    offloaded: set[int] = set()
    for block in blocks(transformer):
        frozen = [parameter for parameter in block.parameters() if not parameter.requires_grad]
        group = ModuleGroup(
            modules=[], offload_device=host, onload_device=device, offload_leader=block, onload_leader=block,
            parameters=frozen, buffers=list(block.buffers()), stream=stream,
        )  # fmt: skip
        group.non_blocking = False  # a block waits for its weights
        HookRegistry.check_if_exists_or_initialize(block).register_hook(
            GroupOffloadingHook(group, config=config), "group_offloading"
        )
        offloaded |= {id(tensor) for tensor in (*group.parameters, *group.buffers)}
    for tensor in (*transformer.parameters(), *transformer.buffers()):
        if id(tensor) not in offloaded:
            tensor.data = tensor.data.to(device)
