"""Devices, and the precision that they compute in."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from loraedit.errors import InputError
from loraedit.runtime.ranks import processes

__all__ = [
    "autocasts",
    "computed_in",
    "converts_weights",
    "find_device",
    "move",
    "on_cpu",
    "simulated_accelerator",
    "training_attention",
    "training_precision",
    "use",
]

_simulating = False
"""True while the CPU stands for an accelerator."""


def find_device(name: str | None) -> torch.device:
    """Returns the device of a name; None gives the best device of this machine.

    Raises:
        InputError: this machine does not have the device.
    """
    best = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if name is None:
        return best or torch.device("cpu")
    device = torch.device(name)
    if processes() > 1 and ":" in name:
        raise InputError(f"Each of several processes uses its own device. Give {device.type} instead of {name}.")
    count = torch.accelerator.device_count() if best is not None and device.type == best.type else 0
    if device.type != "cpu" and (device.index or 0) >= count:
        available = f"cpu and {torch.accelerator.device_count()} {best.type}" if best is not None else "only cpu"
        raise InputError(f"torch finds no device '{name}' on this machine. It finds {available}.")
    return device


def use(device: torch.device) -> None:
    """Makes a device the current one, which libraries use where they are not told."""
    if device.type != "cpu" and device.index is not None:
        torch.accelerator.set_device_index(device.index)


def move(tensors: Iterable[Tensor], device: torch.device) -> None:
    """Moves tensors of a module to a device, in place, as ``Module.to`` does; also fake ones, which that refuses."""
    for tensor in tensors:
        tensor.data = tensor.data.to(device)


def autocasts(device: torch.device) -> bool:
    """Returns True if training on a device computes in bfloat16, whatever the precision of the weights."""
    if not on_cpu(device):
        return True
    has = torch.cpu.get_capabilities()
    return bool(has.get("avx512_bf16") or has.get("amx_bf16"))


def on_cpu(device: torch.device) -> bool:
    """Returns True for a CPU that does not stand for an accelerator."""
    return device.type == "cpu" and not _simulating


def converts_weights(device: torch.device) -> bool:
    """Returns True if frozen weights are converted to bfloat16 before the training, and not layer by layer in it."""
    return on_cpu(device) and autocasts(device)


@contextmanager
def simulated_accelerator() -> Iterator[None]:
    """Lets everything that asks for the precision of the CPU get that of an accelerator, for plans on fake tensors."""
    global _simulating
    before, _simulating = _simulating, True
    try:
        yield
    finally:
        _simulating = before


def computed_in(kind: str, otherwise: torch.dtype) -> torch.dtype:
    """Returns the dtype of matrix products on a kind of device: that of autocast if it is on, else ``otherwise``."""
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else otherwise


@contextmanager
def training_precision(device: torch.device) -> Iterator[None]:
    """Computes in bfloat16 on an accelerator and on a CPU with bfloat16 hardware, else in the weights' precision."""
    if not autocasts(device):
        yield
        return
    with training_attention(device), torch.autocast(device.type, torch.bfloat16), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Mismatch dtype between input and weight")  # from norms in float32
        yield


@contextmanager
def training_attention(device: torch.device) -> Iterator[None]:
    """Chooses the attention kernel of training. Gradients need it too, because they may compute blocks again.

    On a CPU that computes in bfloat16, torch's unfused attention is nearly twice as fast as its fused kernel.
    """
    if not converts_weights(device):
        yield
        return
    before = torch.backends.cuda.fp16_bf16_reduction_math_sdp_allowed()  # type: ignore[no-untyped-call]
    torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(True)  # despite its name, the CPU kernel obeys this flag too
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(before)
