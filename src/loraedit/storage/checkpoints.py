"""Identifies checkpoints by their files, without reading large ones completely."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["checkpoint_files", "sample_bytes"]

TEXT_FILES = {".jinja", ".json", ".model", ".txt"}


def checkpoint_files(folder: Path, skip: Callable[[str], bool] = lambda _: False) -> list[Any]:
    """Returns what identifies the files of a checkpoint, for :func:`loraedit.storage.files.fingerprint`.

    That is the content of its text files, and size and samples of each safetensors file. Other files do not count.

    Args:
        skip: True for the files to leave out, by their path in the folder, with slashes.
    """
    parts: list[Any] = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if skip(name) or not path.is_file():
            continue
        if path.suffix == ".safetensors":
            parts += [name, path.stat().st_size, sample_bytes(path)]
        elif path.suffix in TEXT_FILES:
            parts += [name, path.read_bytes()]
    return parts


def sample_bytes(path: Path, count: int = 64, length: int = 1 << 16) -> bytes:
    """Reads pieces spread over a file, including its head and its end; a small file is read completely."""
    size = path.stat().st_size
    with path.open("rb") as file:
        if size <= count * length:
            return file.read()
        pieces = []
        for index in range(count):
            file.seek((size - length) * index // (count - 1))
            pieces.append(file.read(length))
    return b"".join(pieces)
