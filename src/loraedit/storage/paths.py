"""Checks the paths that a command reads and writes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from loraedit.errors import InputError
from loraedit.storage.files import real

__all__ = ["check_apart", "unusable_paths_refused"]


@contextmanager
def unusable_paths_refused() -> Iterator[None]:
    """Turns an error of the system about a path (too long, no permission, a failing disk) into one sentence."""
    try:
        yield
    except OSError as error:
        what = error.filename or "An input"
        raise InputError(f"'{what}' cannot be used: {error.strerror or error}. Check the path.") from error


def check_apart(read: Path, written: Path, exactly: bool) -> None:
    """Checks that writing would not overwrite an input.

    Args:
        read: the input.
        written: the output.
        exactly: the input may lie in the folder that is written.

    Raises:
        InputError: it would.
    """
    ours, theirs = real(written), real(read)
    if ours == theirs or (not exactly and theirs.is_relative_to(ours)):
        what = "the input itself" if ours == theirs else f"where the input '{read}' lies"
        raise InputError(f"The result would be written to '{written}', which is {what}. Choose other names.")
