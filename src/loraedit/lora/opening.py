"""Opens LoRA files, and refuses in one sentence those that cannot be read; needs no torch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError, safe_open

from loraedit.errors import ModelError

__all__ = ["check_header", "unreadable_refused"]


def check_header(path: Path) -> None:
    """Checks that a file is there and that its header is one of safetensors.

    Raises:
        ModelError: it is not.
    """
    with unreadable_refused(path), safe_open(path, "np"):
        pass


@contextmanager
def unreadable_refused(path: Path) -> Iterator[None]:
    """Turns what safetensors raises for a missing or damaged file into a :class:`ModelError`."""
    if not path.is_file():
        raise ModelError(f"There is no LoRA file '{path}'. Give a .safetensors file.")
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise ModelError(
            f"'{path}' cannot be read as safetensors: it is cut short, damaged or of another format. "
            "Fetch or export it again; pickled files are never opened."
        ) from error
