"""Buffers in the host's memory that a device reads and writes directly, at their exact sizes.

Torch's own pinned memory comes in powers of two and is not returned to the system. A buffer from here is pinned as it
is, and returned as soon as nothing refers to it.
"""

from __future__ import annotations

import ctypes
import sys
import weakref
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import numpy as np
import torch
from torch import Tensor

__all__ = ["STREAMING", "BufferPool", "host_buffer", "lies_on_host", "trim"]

STREAMING = ("cuda", "xpu")
"""Kinds of devices that can copy while they compute."""

_on_host = False
"""True while a buffer is allocated, for :func:`lies_on_host`."""

_storages: set[int] = set()
"""The addresses of the storages of all buffers, for :func:`lies_on_host`."""


def host_buffer(size: int, device: torch.device) -> Tensor:
    """Allocates a buffer, uint8 ``[size]``, pinned if the device copies while it computes.

    Where the system refuses to pin so much, the buffer is ordinary memory, and copies from it take longer.

    Args:
        size: in bytes.
        device: the device that uses the buffer.
    """
    with _marked():
        if device.type == "cuda":
            buffer = _registered(size, device)
        else:
            buffer = torch.empty(size, dtype=torch.uint8, pin_memory=device.type in STREAMING)
    storage = buffer.untyped_storage()
    _storages.add(storage._cdata)
    weakref.finalize(storage, _storages.discard, storage._cdata).atexit = False
    return buffer


def lies_on_host(storage: torch.UntypedStorage) -> bool:
    """Returns True for the storage of a buffer, also while it is allocated, for meters of the device's memory.

    Where the CPU stands for a device, nothing else tells them apart.
    """
    return _on_host or storage._cdata in _storages


def trim() -> None:
    """Returns freed memory to the system. The allocator of Linux keeps small pieces, often gigabytes after a model."""
    if sys.platform == "linux":
        release = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if release is not None:
            release(0)


class BufferPool:
    """Buffers of one device that are used again by buffers of the same size.

    Attributes:
        allocated: bytes of all buffers that were ever needed at the same time.
    """

    def __init__(self, device: torch.device) -> None:
        self._device, self.allocated = device, 0
        self._free: defaultdict[int, list[Tensor]] = defaultdict(list)

    def take(self, size: int) -> Tensor:
        """Returns a buffer, uint8 ``[size]``."""
        if self._free[size]:
            return self._free[size].pop()
        self.allocated += size
        return host_buffer(size, self._device)

    def give_back(self, buffer: Tensor) -> None:
        """Takes a buffer back. Work on it that is queued on the device's current stream may still be unfinished."""
        self._free[len(buffer)].append(buffer)


@contextmanager
def _marked() -> Iterator[None]:
    global _on_host
    _on_host = True
    try:
        yield
    finally:
        _on_host = False


def _registered(size: int, device: torch.device) -> Tensor:
    """Allocates ordinary memory and pins it; it is unpinned before it is freed."""
    memory = np.empty(size, np.uint8)
    address, runtime = memory.ctypes.data, torch.cuda.cudart()  # type: ignore[no-untyped-call]
    if int(runtime.cudaHostRegister(address, size, 0)) == 0:
        weakref.finalize(memory, _unpin, address, device).atexit = False
    else:
        with suppress(RuntimeError):  # the next operation would report the refusal as its own failure
            torch.zeros(1, device=device)
    return torch.from_numpy(memory)


def _unpin(address: int, device: torch.device) -> None:
    torch.cuda.synchronize(device)  # a copy may still be on its way
    torch.cuda.cudart().cudaHostUnregister(address)  # type: ignore[no-untyped-call]
