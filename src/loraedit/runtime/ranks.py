"""Which of several processes this is, as ``accelerate launch`` tells each; see :mod:`loraedit.runtime.distributed`."""

from __future__ import annotations

import os

__all__ = ["leads", "processes"]


def processes() -> int:
    """How many processes are at this edit, each with a device of its own."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def leads() -> bool:
    """Whether this process does the edit, and writes its files."""
    return processes() == 1 or int(os.environ.get("RANK", "0")) == 0
