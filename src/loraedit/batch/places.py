"""Where inputs and results lie: paths, or URLs of any file system that fsspec knows (``s3://``, ``gs://``, ...)."""

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
"""What is quickly made again, and as large as the clip."""


def is_url(place: str) -> bool:
    """Whether it is a URL, and no path."""
    return "://" in place


def _open(url: str) -> tuple[Any, str]:
    """The file system of a URL, and the path there.

    Raises:
        InputError: no package for it is installed, or there is none.
    """
    import fsspec

    try:
        system, path = fsspec.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise InputError(f"'{url}' cannot be reached: {error}. Install what it needs, or give a path.") from error
    return system, str(path).rstrip("/")


@lru_cache(maxsize=65536)
def stamp(place: str) -> str:
    """What tells one content from another: the hash of a file or of all files of a folder, or what a URL's host says.

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
            f"There is no '{place}'. Check the path; it counts from the folder of the jobs file."
        ) from error


def fetch(place: str) -> Path:
    """A path as it is; of a URL this machine's copy, which is named by its content and made once.

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
    """The folder of a batch: one that everybody sees, or this machine's copy of what lies behind a URL.

    Args:
        place: a path, or a URL.
    """

    def __init__(self, place: str) -> None:
        self.url = place.rstrip("/") if is_url(place) else None
        self.local = Path(place) if self.url is None else cache_folder("batches") / fingerprint(self.url)
        self._pushed: dict[str, tuple[int, int]] = {}

    def pull(self, *names: str, again: bool = False) -> None:
        """Bring files or folders that are not here; nothing to do in a shared folder.

        Args:
            again: forget files of these names that are here.
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
        """Put what has changed in files or folders where everybody sees it.

        Args:
            mirror: what is no longer here goes there too.
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
            return  # it has passed meanwhile

    @contextmanager
    def kept_up(self, name: str) -> Iterator[Path]:
        """A folder as it is there, put back there again and again while it is worked in, and at the end."""
        folder = self.local / name
        if self.url is None:
            yield folder
            return
        shutil.rmtree(folder, ignore_errors=True)  # what is there is newer, or as new
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
                continue  # the next time, or at the end, which fails aloud


def _mark(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def _files(place: Path) -> list[Path]:
    """The files of a folder that others are to see, those that say that something is finished last; or the file."""
    if place.is_file():
        return [place]
    found = [each for each in place.rglob("*") if each.is_file() and not each.name.startswith(".")]
    kept = [each for each in found if not any(part in f"{each.relative_to(place).as_posix()}" for part in _LOCAL_ONLY)]
    return sorted(kept, key=lambda each: (each.name in ("result.json", "outcome.json"), str(each)))
