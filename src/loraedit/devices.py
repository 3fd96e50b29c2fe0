"""Which device to run on."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from loraedit.errors import InputError

__all__ = ["find_device", "training_precision"]


def find_device(name: str | None) -> torch.device:
    """The device asked for; for None the best there is.

    Raises:
        InputError: this machine does not have it.
    """
    best = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if name is None:
        return best or torch.device("cpu")
    device = torch.device(name)
    count = torch.accelerator.device_count() if best is not None and device.type == best.type else 0
    if device.type != "cpu" and (device.index or 0) >= count:
        have = f"cpu and {count} of kind {best.type}" if best is not None else "cpu alone"
        raise InputError(f"This machine has no device {name} that torch can use; it has {have}.")
    return device


@contextmanager
def training_precision(device: torch.device) -> Iterator[None]:
    """Compute in bfloat16 on a CPU that has it in hardware; anywhere else in the precision of the weights.

    There torch's written-out attention beats its fused kernel, by nearly two to one.
    """
    has = torch.cpu.get_capabilities() if device.type == "cpu" else {}
    if not (has.get("avx512_bf16") or has.get("amx_bf16")):
        yield
        return
    before = torch.backends.cuda.fp16_bf16_reduction_math_sdp_allowed()  # type: ignore[no-untyped-call]
    torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(True)  # a flag of the CPU's kernel too, despite its name
    try:
        with sdpa_kernel(SDPBackend.MATH), torch.autocast("cpu", torch.bfloat16), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Mismatch dtype between input and weight")  # of norms in float32
            yield
    finally:
        torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(before)
