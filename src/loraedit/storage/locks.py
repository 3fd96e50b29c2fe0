"""Lets one process at a time work in a folder, by the system's lock on a file."""

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
"""An empty file that stays in the folder. The system's lock on it ends with the process that holds it."""

_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}
"""Errors of file systems without locks, such as some network drives; there no process is kept out."""


@contextmanager
def sole_user(run: Path) -> Iterator[None]:
    """Locks an existing run folder against other processes.

    Raises:
        InputError: another process holds the lock.
    """
    descriptor = take_lock(run / LOCK_FILE, 0o666)
    if descriptor is None:
        raise InputError(f"Another loraedit is at work in '{run}'. Wait until it ends, or give another run folder.")
    try:
        yield
    finally:
        os.close(descriptor)  # releases the lock too


def take_lock(path: Path, mode: int) -> int | None:
    """Takes an exclusive lock on a file.

    Args:
        mode: permissions of the file, if it is created.

    Returns:
        The open descriptor, which holds the lock together with its heirs; None if another process has the lock.
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
