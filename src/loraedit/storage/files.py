"""Reads and writes files of a run folder: whole or not at all, and with checksums."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from loraedit.errors import CacheError, InputError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "cache_folder",
    "check_plain",
    "fingerprint",
    "hash_file",
    "is_whole",
    "load_tensors",
    "read_json",
    "real",
    "save_tensors",
    "try_load_tensors",
    "write_bytes",
    "write_json",
    "write_tensors",
    "write_text",
]

METADATA_KEY = "loraedit"
CHECKSUM_KEY = "sha256"
"""Checksum of the whole file, computed with zeros in place of the checksum."""
_NO_CHECKSUM = "0" * 64
_MAX_HEADER = 100_000_000
"""Bytes; the limit of safetensors itself."""
_MAX_JSON = 200_000_000
"""Bytes; the losses of a very long training take a tenth of this."""


def real(path: Path) -> Path:
    """Returns the absolute path behind any links, so that writing follows a link instead of replacing it."""
    return Path(os.path.realpath(path))


def check_plain(path: Path, what: str) -> None:
    """Checks that an existing path is a plain file with contents.

    Args:
        what: what the file is read as, for the message.

    Raises:
        OSError: the file system cannot tell.
        InputError: it is a pipe, a device, or empty; virtual files of the system look empty too.
    """
    if not path.is_file():
        raise InputError(f"{path} cannot be read as {what}: it is not a plain file. Give another one.")
    if path.stat().st_size == 0:
        raise InputError(f"{path} cannot be read as {what}: it is empty. Give another file.")


def fingerprint(*parts: Any) -> str:
    """Returns twelve hex digits of the contents: arrays by shape, type and bytes, everything else by its JSON."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            digest.update(f"{part.dtype}{part.shape}".encode())
            digest.update(np.ascontiguousarray(part).data)
        elif isinstance(part, bytes):
            digest.update(part)
        else:
            digest.update(json.dumps(part, sort_keys=True).encode())
        digest.update(b"|")
    return digest.hexdigest()[:12]


def cache_folder(name: str) -> Path:
    """Returns a folder in the user's cache; it may not exist yet."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "loraedit" / name


def hash_file(path: Path) -> str:
    """Returns the SHA-256 of a file's contents in hex.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_bytes(path: Path, content: bytes, lasting: bool = True) -> None:
    """Writes a file under a temporary name, flushes it to disk, and renames it into place.

    Args:
        lasting: False skips the flush, for files that may be lost or damaged if the machine crashes.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.partial")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            if lasting:
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def read_json(path: Path) -> Any:
    """Reads the JSON in a plain file.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not a plain file, implausibly large, or not JSON in UTF-8.
    """
    size = path.stat().st_size
    try:
        check_plain(path, "JSON")
    except InputError as error:
        raise ValueError(str(error)) from error
    if size > _MAX_JSON:
        raise ValueError(f"it is larger than {_MAX_JSON} bytes")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error


def write_json(path: Path, value: Any) -> None:
    """Writes indented JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8, whole or not at all."""
    write_bytes(path, text.encode())


def save_tensors(
    path: Path, tensors: dict[str, Tensor], metadata: dict[str, Any] | None = None, lasting: bool = True
) -> None:
    """Writes safetensors with a checksum, whole or not at all; the same contents give the same bytes.

    Args:
        metadata: JSON values, stored under one key.
        lasting: see :func:`write_bytes`; the checksum reveals a damaged file.
    """
    own = {METADATA_KEY: json.dumps(metadata, sort_keys=True)} if metadata else {}
    content = _as_safetensors(tensors, {**own, CHECKSUM_KEY: _NO_CHECKSUM})
    checksum = hashlib.sha256(content).hexdigest()
    write_bytes(path, content.replace(_NO_CHECKSUM.encode(), checksum.encode(), 1), lasting)


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Writes safetensors with the given header metadata; the same contents give the same bytes."""
    write_bytes(path, _as_safetensors(tensors, metadata))


def _as_safetensors(tensors: dict[str, Tensor], metadata: dict[str, str]) -> bytes:
    from safetensors.torch import save

    content = save({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, metadata or None)
    return content if len(metadata) < 2 else _with_sorted_metadata(content)


def is_whole(path: Path) -> bool:
    """Returns True if a file that :func:`save_tensors` wrote still matches its checksum.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        start = file.read(8)
        length = int.from_bytes(start, "little")
        if length > _MAX_HEADER:
            return False
        header = file.read(length)
        try:
            found: bytes = json.loads(header)["__metadata__"][CHECKSUM_KEY].encode()
        except (ValueError, KeyError, TypeError, AttributeError):
            return False
        digest = hashlib.sha256(start + header.replace(found, _NO_CHECKSUM.encode(), 1))
        return hashlib.file_digest(file, lambda: digest).hexdigest().encode() == found


def _with_sorted_metadata(content: bytes) -> bytes:
    """Sorts the metadata of a file: safetensors writes several keys in no fixed order."""
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # the tensors stay aligned
    return len(text).to_bytes(8, "little") + text + content[8 + length :]


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Loads tensors and metadata of a file that :func:`save_tensors` wrote.

    Raises:
        CacheError: the file is damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            metadata = json.loads((file.metadata() or {}).get(METADATA_KEY, "{}"))
            return {key: file.get_tensor(key) for key in file.keys()}, metadata  # noqa: SIM118 (not a dict)
    except (OSError, SafetensorError, ValueError) as error:
        raise CacheError(f"'{path}' is damaged. Delete it to make it again.") from error


def try_load_tensors(path: Path, names: tuple[str, ...]) -> dict[str, Tensor] | None:
    """Loads the tensors of a file that :func:`save_tensors` wrote, or returns None if it is missing.

    A file that does not match its checksum, or that lacks one of the names, is renamed to ``.damaged`` and counts as
    missing.
    """
    if not path.exists():
        return None
    try:
        tensors = load_tensors(path)[0] if is_whole(path) else {}
        if tensors and all(name in tensors for name in names):
            return tensors
    except CacheError:
        pass
    path.replace(path.with_name(f"{path.name}.damaged"))
    return None
