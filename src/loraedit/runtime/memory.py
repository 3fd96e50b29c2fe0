"""Fits models into a device's memory with the libraries' own means, chosen by :class:`loraedit.settings.Resources`.

A transformer is loaded on the CPU, gets its LoRA, and is then placed on the device. The LoRA always stays on the
device: it is small, and its gradients and optimiser moments live where it does.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import nn

from loraedit.runtime.attention import set_attention
from loraedit.runtime.block_swap import swap_blocks, swapped_buffers
from loraedit.runtime.devices import move
from loraedit.runtime.distributed import share_blocks
from loraedit.runtime.host_checkpoints import HostCheckpoints
from loraedit.runtime.ranks import processes
from loraedit.settings import Resources

__all__ = [
    "WeightsHeld",
    "blocks",
    "checkpoint_bytes",
    "checkpoints_kept",
    "place",
    "place_encoder",
    "tile",
    "weights_held",
]

_checkpoints: weakref.WeakKeyDictionary[nn.Module, HostCheckpoints] = weakref.WeakKeyDictionary()
"""The host memory for checkpoints of each transformer that has some."""


class WeightsHeld(NamedTuple):
    """The bytes of a placed transformer's weights, its LoRAs and the places for incoming blocks included."""

    device: int
    host: int


def place(transformer: Any, resources: Resources, device: torch.device, attention: str | None = None) -> None:
    """Brings a frozen transformer, with its LoRA if it has one, to the device, in place.

    Args:
        attention: diffusers' name of the attention backend, that of training or that of sampling; None is torch's own
            choice.

    Raises:
        InputError: the attention backend is not available.
    """
    if resources.swap_blocks:
        swap_blocks(transformer, list(blocks(transformer)), resources.swap_blocks, device)
    elif processes() > 1:
        share_blocks(transformer, blocks(transformer), device)
    else:
        move((*transformer.parameters(), *transformer.buffers()), device)
    if resources.recomputes:
        transformer.enable_gradient_checkpointing()
    if attention is not None:
        set_attention(transformer, attention)
    if resources.compile_blocks:
        transformer.compile_repeated_blocks(fullgraph=not resources.swap_blocks)


def place_encoder(encoder: nn.Module, resources: Resources, device: torch.device) -> None:
    """Brings a text or image encoder to the device, in place. If offloaded, two of its layers at a time are there."""
    encoder.requires_grad_(False)
    layers = list(_layers(encoder)) if resources.offload_encoders else []
    if layers:
        swap_blocks(encoder, layers, len(layers), device)
    else:
        move((*encoder.parameters(), *encoder.buffers()), device)


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


def checkpoints_kept(transformer: nn.Module, resources: Resources, device: torch.device) -> AbstractContextManager[Any]:
    """Returns a context in which a forward pass keeps the inputs of its gradients in host memory, if offloaded."""
    if not resources.offload_checkpoints:
        return nullcontext()
    return _checkpoints.setdefault(transformer, HostCheckpoints(device)).keep()


def checkpoint_bytes(transformer: nn.Module) -> int:
    """Returns the host memory that the checkpoints of a transformer have taken so far, in bytes."""
    return _checkpoints[transformer].pool.allocated if transformer in _checkpoints else 0


def weights_held(transformer: nn.Module) -> WeightsHeld:
    """Counts where the weights of a placed transformer are."""
    storages = {
        tensor.untyped_storage()._cdata: tensor.untyped_storage().nbytes()
        for tensor in (*transformer.parameters(), *transformer.buffers())
    }
    on_host = {buffer.untyped_storage()._cdata: buffer.nbytes for buffer in swapped_buffers(transformer)}
    return WeightsHeld(sum(size for key, size in storages.items() if key not in on_host), sum(on_host.values()))


def blocks(transformer: nn.Module) -> Iterator[nn.Module]:
    """Yields the repeated blocks of a transformer, in order."""
    for child in transformer.children():
        if isinstance(child, nn.ModuleList):
            yield from child


def _layers(encoder: nn.Module) -> Iterator[nn.Module]:
    """Yields the repeated layers of an encoder, which may have several parts, in order."""
    for child in encoder.children():
        if isinstance(child, nn.ModuleList):
            yield from child
        else:
            yield from _layers(child)
