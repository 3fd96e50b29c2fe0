"""Keeps in host memory what a forward pass saves for its gradients: with checkpointing, the inputs of the blocks."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from loraedit.runtime.host_memory import BufferPool

__all__ = ["HostCheckpoints"]

WORTH_BYTES = 2**16
"""Smaller tensors stay on the device."""


class HostCheckpoints:
    """A place in host memory for saved tensors, whose buffers serve every forward pass.

    Copies run on the stream of the computation, in order with it. A checkpoint of a 14B model is copied in a fiftieth
    of the time in which its block computes.

    Attributes:
        pool: the buffers.
    """

    def __init__(self, device: torch.device) -> None:
        self._device, self.pool = device, BufferPool(device)

    @contextmanager
    def keep(self) -> Iterator[None]:
        """Returns a context for a forward pass. A tensor that is saved several times is kept once."""
        kept: dict[tuple[int, int], weakref.ref[_Kept]] = {}

        def pack(tensor: Tensor) -> _Kept | Tensor:
            if isinstance(tensor, nn.Parameter) or tensor.nbytes < WORTH_BYTES:
                return tensor
            key = tensor.untyped_storage()._cdata, tensor._version
            known = kept.get(key)
            found = known() if known is not None else None
            if found is None or not found.holds(tensor):
                found = _Kept(tensor, self.pool)
                kept[key] = weakref.ref(found)
            return found

        def unpack(packed: _Kept | Tensor) -> Tensor:
            return packed.on(self._device) if isinstance(packed, _Kept) else packed

        with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
            yield


class _Kept:
    """A tensor in host memory, whose buffer goes back to the pool with it."""

    def __init__(self, tensor: Tensor, pool: BufferPool) -> None:
        self._shape, self._dtype = tensor.shape, tensor.dtype
        self._stride, self._offset = tensor.stride(), tensor.storage_offset()
        self._source = weakref.ref(tensor.untyped_storage())
        self._buffer = pool.take(tensor.nbytes)
        self._values().copy_(tensor, non_blocking=True)
        weakref.finalize(self, pool.give_back, self._buffer)

    def holds(self, tensor: Tensor) -> bool:
        """Returns True if this is a copy of the same values, which must still exist."""
        mine = self._shape, self._dtype, self._stride, self._offset
        theirs = tensor.shape, tensor.dtype, tensor.stride(), tensor.storage_offset()
        return mine == theirs and self._source() is tensor.untyped_storage()

    def on(self, device: torch.device) -> Tensor:
        """Returns a copy on the device."""
        return self._values().to(device, non_blocking=True, copy=True)

    def _values(self) -> Tensor:
        return self._buffer.view(self._dtype).view(self._shape)
