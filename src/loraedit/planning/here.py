"""The device of this machine, as a card among others; its speed is not published but measured."""

from __future__ import annotations

import os
import time

import torch

from loraedit.planning.cards import GraphicsCard
from loraedit.runtime.devices import autocasts

__all__ = ["card_here"]

SIDE, LARGE_SIDE = 1024, 8192
"""Of the square matrices that are multiplied, on a CPU and on others."""
MEASURED_S = 0.3


def card_here(device: torch.device) -> GraphicsCard:
    """What a device has and does: memory as it says, matrix products as they go in a third of a second.

    It is measured in the precision of training; when the machine is busy, it is as slow as it is just then.
    """
    if device.type == "cuda":
        facts = torch.cuda.get_device_properties(device)
        name, memory = facts.name, facts.total_memory
    else:
        name = "this machine's processor" if device.type == "cpu" else str(device)
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return GraphicsCard(name, round(memory / 1e9), _tflops(device), is_host=device.type == "cpu")


def _tflops(device: torch.device) -> float:
    side = SIDE if device.type == "cpu" else LARGE_SIDE
    matrix = torch.ones(side, side, device=device, dtype=torch.bfloat16 if autocasts(device) else torch.float32)
    (matrix @ matrix)[0, 0].item()  # the first one also sets up; reading a number waits for it
    count, start = 0, time.monotonic()
    while (seconds := time.monotonic() - start) < MEASURED_S:
        (matrix @ matrix)[0, 0].item()
        count += 1
    return 2 * side**3 * count / seconds / 1e12
