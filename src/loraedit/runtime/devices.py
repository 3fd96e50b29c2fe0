"""Which device to run on."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from loraedit.errors import InputError
from loraedit.runtime.ranks import processes

__all__ = ["autocasts", "computed_in", "find_device", "training_attention", "training_precision"]


def find_device(name: str | None) -> torch.device:
    """The device asked for; for None the best there is.

    Raises:
        InputError: this machine does not have it.
    """
    best = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if name is None:
        return best or torch.device("cpu")
    device = torch.device(name)
    if processes() > 1 and ":" in name:
        raise InputError(f"Each of several processes takes a device of its own. Give '{device.type}', not '{name}'.")
    count = torch.accelerator.device_count() if best is not None and device.type == best.type else 0
    if device.type != "cpu" and (device.index or 0) >= count:
        have = f"cpu and {count} of kind {best.type}" if best is not None else "cpu alone"
        raise InputError(f"This machine has no device {name} that torch can use; it has {have}.")
    return device


def autocasts(device: torch.device) -> bool:
    """Whether training on a device computes in bfloat16, whatever the precision of the weights."""
    if device.type != "cpu":
        return True
    has = torch.cpu.get_capabilities()
    return bool(has.get("avx512_bf16") or has.get("amx_bf16"))


def computed_in(kind: str, otherwise: torch.dtype) -> torch.dtype:
    """What products are computed in on a kind of device: as autocast says, where it is on."""
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else otherwise


@contextmanager
def training_precision(device: torch.device) -> Iterator[None]:
    """Compute in bfloat16 on an accelerator, and on a CPU that has it in hardware; elsewhere as the weights are."""
    if not autocasts(device):
        yield
        return
    with training_attention(device), torch.autocast(device.type, torch.bfloat16), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Mismatch dtype between input and weight")  # of norms in float32
        yield


@contextmanager
def training_attention(device: torch.device) -> Iterator[None]:
    """The attention kernel of training; around the gradients too, where blocks may be computed again.

    On a CPU that computes in bfloat16 torch's written-out attention beats its fused kernel, by nearly two to one.
    """
    if device.type != "cpu" or not autocasts(device):
        yield
        return
    before = torch.backends.cuda.fp16_bf16_reduction_math_sdp_allowed()  # type: ignore[no-untyped-call]
    torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(True)  # a flag of the CPU's kernel too, despite its name
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(before)
