"""The rank of this process, as ``accelerate launch`` sets it; see :mod:`loraedit.runtime.distributed`."""

from __future__ import annotations

import os

__all__ = ["leads", "processes"]


def processes() -> int:
    """Returns the number of processes of this edit, each with its own device."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def leads() -> bool:
    """Returns True if this process carries out the edit and writes its files."""
    return processes() == 1 or int(os.environ.get("RANK", "0")) == 0
