"""Which device to run on."""

from __future__ import annotations

import torch

from loraedit.errors import InputError

__all__ = ["find_device"]


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
