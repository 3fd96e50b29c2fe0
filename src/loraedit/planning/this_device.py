"""Measures the device of this machine, for comparison with the published figures of GPUs."""

from __future__ import annotations

import os
import time
from dataclasses import replace

import torch

from loraedit.planning.gpus import Gpu, known_gpu
from loraedit.runtime.devices import autocasts

__all__ = ["measure_device"]

SIDE, LARGE_SIDE = 1024, 8192
"""Side of the square matrices to multiply, on a CPU and on other devices."""
MEASURED_S = 0.3


def measure_device(device: torch.device) -> Gpu:
    """Returns a device's memory as the system states it, and its speed.

    The speed of a GPU of the list is the published one, to which its efficiency refers. Any other is measured in a
    third of a second, in the precision of training; on a busy machine it is lower.
    """
    if device.type == "cuda":
        facts = torch.cuda.get_device_properties(device)
        name, memory = facts.name, facts.total_memory
        if known := known_gpu(name):
            return replace(known, memory_gb=round(memory / 1e9))
    else:
        name = "this machine's processor" if device.type == "cpu" else str(device)
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Gpu(name, round(memory / 1e9), _tflops(device), is_host=device.type == "cpu")


def _tflops(device: torch.device) -> float:
    side = SIDE if device.type == "cpu" else LARGE_SIDE
    matrix = torch.ones(side, side, device=device, dtype=torch.bfloat16 if autocasts(device) else torch.float32)
    (matrix @ matrix)[0, 0].item()  # warms up; reading a number waits for the product
    count, start = 0, time.monotonic()
    while (seconds := time.monotonic() - start) < MEASURED_S:
        (matrix @ matrix)[0, 0].item()
        count += 1
    return 2 * side**3 * count / seconds / 1e12
