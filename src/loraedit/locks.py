"""One process at a time on a run folder."""

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

__all__ = ["LOCK_FILE", "sole_user"]

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
    descriptor = os.open(run / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            _lock(descriptor)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise InputError(
                    f"Another loraedit is at work in '{run}'. Wait until it has ended, or give another run folder."
                ) from error
        yield
    finally:
        os.close(descriptor)  # gives the lock up too


def _lock(descriptor: int) -> None:
    if sys.platform == "win32":
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
    else:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
