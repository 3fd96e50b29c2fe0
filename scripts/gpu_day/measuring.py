"""Measures peaks of memory and similarities."""

from __future__ import annotations

from types import TracebackType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from loraedit.planning.meter import Meter
from loraedit.runtime.memory import weights_held

__all__ = ["Peak", "cosine", "device_name"]

Values = Tensor | NDArray[np.float32]


class Peak:
    """A context that measures the peak of a device's memory, with the weights of a module.

    On a GPU that is the allocator's own figure. On a CPU all tensors are counted that live at the same time, except
    those in the buffers of swapped blocks, which stand for the host's memory.

    Args:
        device: the device.
        module: the model that computes.
        counted: whether to count on a CPU too; compiled blocks do not run under a counter.

    Attributes:
        bytes: the peak, at the end.
    """

    def __init__(self, device: torch.device, module: nn.Module, counted: bool = True) -> None:
        self._device, self._module, self._on_gpu = device, module, device.type == "cuda"
        self._counted = counted and not self._on_gpu
        self._before, self.bytes = weights_held(module), 0
        self._meter = Meter(module)

    def __enter__(self) -> Peak:
        """Starts to measure."""
        if self._on_gpu:
            torch.cuda.synchronize(self._device)
            torch.cuda.reset_peak_memory_stats(self._device)
        elif self._counted:
            self._meter.__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends the measurement, and refers to the module no longer."""
        if self._on_gpu:
            torch.cuda.synchronize(self._device)
        elif self._counted:
            self._meter.__exit__(kind, error, trace)  # type: ignore[no-untyped-call]
        self.bytes = self._measured()
        del self._module

    def _measured(self) -> int:
        if self._on_gpu:
            return int(torch.cuda.max_memory_allocated(self._device))
        swapped = weights_held(self._module).host - self._before.host
        return self._before.device - swapped + self._meter.peak


def cosine(one: Values, other: Values) -> float:
    """Returns the cosine similarity of two arrays or tensors of any shape."""
    a, b = (torch.as_tensor(each).detach().float().cpu().flatten() for each in (one, other))
    return float(torch.nn.functional.cosine_similarity(a, b, dim=0))


def device_name(device: torch.device) -> str:
    """Returns the name of the device, as torch has it."""
    return str(torch.cuda.get_device_name(device)) if device.type == "cuda" else device.type
