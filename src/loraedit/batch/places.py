"""Places of inputs and results: paths, or URLs of any file system that fsspec knows (``s3://``, ``gs://``, ...)."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from loraedit.errors import InputError
from loraedit.storage.files import cache_folder, fingerprint, hash_file

__all__ = ["Depot", "fetch", "is_url", "stamp"]

PUSH_EVERY_S = 30.0
_LOCAL_ONLY = ("cache/pieces/",)
"""Not uploaded: as large as the clip, and quickly made again."""


def is_url(place: str) -> bool:
    """True if the place is a URL rather than a path."""
    return "://" in place


def _open(url: str) -> tuple[Any, str]:
    """Returns the file system of a URL, and the path there.

    Raises:
        InputError: no package for it is installed, or none exists.
    """
    import fsspec

    try:
        system, path = fsspec.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise InputError(f"'{url}' cannot be reached: {error}. Install its package, or give a path.") from error
    return system, str(path).rstrip("/")


@lru_cache(maxsize=65536)
def stamp(place: str) -> str:
    """Returns a text that identifies the content: a hash of a file or of a folder's files, or what a URL's host states.

    Raises:
        InputError: there is nothing there.
    """
    if is_url(place):
        system, path = _open(place)
        try:
            return fingerprint(place, {name: str(system.ukey(name)) for name in system.find(path)} or system.ukey(path))
        except OSError as error:
            raise InputError(f"There is no '{place}'. Check the URL.") from error
    found = Path(place)
    try:
        if found.is_dir():
            return fingerprint([[each.name, hash_file(each)] for each in sorted(found.iterdir()) if each.is_file()])
        return hash_file(found)[:12]
    except OSError as error:
        raise InputError(
            f"There is no '{place}'. Check the path; it is relative to the folder of the jobs file."
        ) from error


def fetch(place: str) -> Path:
    """Returns a path as it is, and for a URL this machine's copy, which is named by its content and made once.

    Raises:
        InputError: there is nothing there.
    """
    if not is_url(place):
        return Path(place)
    name = place.rstrip("/").rsplit("/", 1)[-1]
    copy = cache_folder("batch-inputs") / stamp(place) / name
    if not copy.exists():
        system, path = _open(place)
        passing = copy.with_name(f".{os.getpid()}-{threading.get_ident()}-{name}")
        passing.parent.mkdir(parents=True, exist_ok=True)
        try:
            system.get(path, str(passing), recursive=bool(system.isdir(path)))
            if not copy.exists():
                passing.replace(copy)
        except OSError as error:
            raise InputError(f"'{place}' cannot be fetched: {error}.") from error
        finally:
            if passing.is_dir():
                shutil.rmtree(passing, ignore_errors=True)
            passing.unlink(missing_ok=True)
    return copy


class Depot:
    """The folder of a batch: one that all workers see, or this machine's copy of the content of a URL.

    Args:
        place: a path, or a URL.
    """

    def __init__(self, place: str) -> None:
        self.url = place.rstrip("/") if is_url(place) else None
        self.local = Path(place) if self.url is None else cache_folder("batches") / fingerprint(self.url)
        self._pushed: dict[str, tuple[int, int]] = {}

    def pull(self, *names: str, again: bool = False) -> None:
        """Downloads files or folders that are not here; does nothing in a shared folder.

        Args:
            again: replace files of these names that are here.
        """
        if self.url is None:
            return
        system, root = _open(self.url)
        for name in names:
            if again:
                (self.local / name).unlink(missing_ok=True)
            for path in system.find(f"{root}/{name}"):
                ours = self.local / path[len(root) + 1 :]
                if not ours.exists():
                    ours.parent.mkdir(parents=True, exist_ok=True)
                    passing = ours.with_name(f".{ours.name}.partial")
                    system.get_file(path, str(passing))
                    passing.replace(ours)
                    self._pushed[path] = _mark(ours)

    def push(self, *names: str, mirror: bool = False) -> None:
        """Uploads what has changed in files or folders.

        Args:
            mirror: also delete there what is no longer here.
        """
        if self.url is None:
            return
        system, root = _open(self.url)
        for name in names:
            here: set[str] = set()
            for ours in _files(self.local / name):
                path = f"{root}/{ours.relative_to(self.local).as_posix()}"
                here.add(path)
                self._put(system, ours, path)
            if mirror:
                for path in set(system.find(f"{root}/{name}")) - here:
                    system.rm_file(path)

    def _put(self, system: Any, ours: Path, path: str) -> None:
        try:
            mark = _mark(ours)
            if self._pushed.get(path) != mark:
                system.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
                system.put_file(str(ours), path)
                self._pushed[path] = mark
        except FileNotFoundError:
            return  # deleted meanwhile

    @contextmanager
    def kept_up(self, name: str) -> Iterator[Path]:
        """Downloads a folder, and uploads it repeatedly while it is in use, and at the end."""
        folder = self.local / name
        if self.url is None:
            yield folder
            return
        shutil.rmtree(folder, ignore_errors=True)  # the uploaded folder is at least as new
        self.pull(name)
        ended = threading.Event()
        keeper = threading.Thread(target=self._keep_up, args=(name, ended), daemon=True)
        keeper.start()
        try:
            yield folder
        finally:
            ended.set()
            keeper.join()
            self.push(name, mirror=True)
            shutil.rmtree(folder, ignore_errors=True)

    def _keep_up(self, name: str, ended: threading.Event) -> None:
        while not ended.wait(PUSH_EVERY_S):
            try:
                self.push(name)
            except OSError:
                continue  # tried again later; a failure of the last upload is raised


def _mark(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def _files(place: Path) -> list[Path]:
    """Returns the files of a folder to upload, those that mark something as finished last; or the file itself."""
    if place.is_file():
        return [place]
    found = [each for each in place.rglob("*") if each.is_file() and not each.name.startswith(".")]
    kept = [each for each in found if not any(part in f"{each.relative_to(place).as_posix()}" for part in _LOCAL_ONLY)]
    return sorted(kept, key=lambda each: (each.name in ("result.json", "outcome.json"), str(each)))
