"""One process at a time, by the system's lock on a file."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from loraedit.errors import InputError

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

__all__ = ["LOCK_FILE", "sole_user", "take_lock"]

LOCK_FILE = ".lock"
"""Empty; it stays in the folder. What counts is the system's lock on it, which ends with the process that holds it."""

_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}
"""What a file system without locks says, as some network drives; there nobody is kept out."""


@contextmanager
def sole_user(run: Path) -> Iterator[None]:
    """Keep everybody else out of an existing run folder meanwhile.

    Raises:
        InputError: somebody is at work in it.
    """
    descriptor = take_lock(run / LOCK_FILE, 0o666)
    if descriptor is None:
        raise InputError(
            f"Another loraedit is at work in '{run}'. Wait until it has ended, or give another run folder."
        )
    try:
        yield
    finally:
        os.close(descriptor)  # gives the lock up too


def take_lock(path: Path, mode: int) -> int | None:
    """An exclusive lock on a file, held by its open descriptor and whoever inherits that; None if somebody has it.

    Args:
        mode: permissions of the file, if it has to be made.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, mode)
    try:
        _lock(descriptor)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            os.close(descriptor)
            return None
    return descriptor


def _lock(descriptor: int) -> None:
    if sys.platform == "win32":
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
    else:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
