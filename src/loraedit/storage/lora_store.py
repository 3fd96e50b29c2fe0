"""The store of a user's trained LoRAs, shared by all run folders and keyed by everything that a LoRA depends on.

    STORE/NAME.safetensors   the LoRA, with its checksum
    STORE/NAME.json          the losses and the duration of its training; written last
    STORE/NAME.lock          present while it is being trained

A name holds the key of the training and the versions of the libraries, so a stored LoRA equals the one that
training would give.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from loraedit.errors import InputError
from loraedit.storage.files import cache_folder, fingerprint, is_whole, read_json, write_json
from loraedit.storage.locks import take_lock
from loraedit.version import versions

__all__ = ["LIMIT_BYTES", "Learnt", "Store", "open_store"]

PLACE = "LORAEDIT_STORE"
"""Environment variable with the store's folder, or ``none``."""
LIMIT_BYTES = 20 * 10**9
"""Maximum size of a store; the LoRAs used least recently are removed first."""
LOOK_AGAIN_S = 0.2


@dataclass(frozen=True)
class Learnt:
    """A finished training.

    Attributes:
        losses: training loss of every step.
        seconds: how long it took on the machine that trained it.
    """

    losses: list[float]
    seconds: float


class Store:
    """Finished trainings in a folder; without a folder nothing is kept or found.

    A store that can no longer be read or written behaves as if it were empty: no edit fails because of it.
    """

    def __init__(self, folder: Path | None, limit_bytes: int = LIMIT_BYTES) -> None:
        self.folder, self._limit = folder, limit_bytes
        self._made_by = fingerprint(versions())

    def known(self, stem: str) -> Learnt | None:
        """Returns the record of a training, or None if the store has none."""
        if self.folder is None:
            return None
        try:
            record = read_json(self._place(stem, ".json"))
            return Learnt([float(loss) for loss in record["losses"]], float(record["seconds"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def fetch(self, file: Path) -> Learnt | None:
        """Copies a LoRA into a run folder if the store has it undamaged.

        Args:
            file: the file in the run folder; its stem names the training.

        Returns:
            The training's record, or None if nothing was copied.
        """
        learnt = self.known(file.stem)
        if learnt is None:
            return None
        kept = self._place(file.stem)
        with suppress(OSError):
            if is_whole(kept):
                _link(kept, file)
                os.utime(self._place(file.stem, ".json"))
                return learnt
        self._drop(file.stem)
        return None

    def publish(self, file: Path, learnt: Learnt) -> None:
        """Adds the LoRA of a run folder; the LoRAs used least recently make room for it."""
        if self.folder is None:
            return
        with suppress(OSError):
            _link(file, self._place(file.stem))
            write_json(self._place(file.stem, ".json"), {"losses": learnt.losses, "seconds": learnt.seconds})
            self._prune()

    @contextmanager
    def sole_maker(self, stem: str, on_wait: Callable[[], None]) -> Iterator[None]:
        """Lets one process at a time train a LoRA; a later process waits here, and should look in the store again.

        Args:
            on_wait: called repeatedly while another process is training.
        """
        lock, descriptor = self._place(stem, ".lock") if self.folder is not None else None, None
        if lock is not None:
            with suppress(OSError):  # without a lock both train, and publish the same
                lock.parent.mkdir(parents=True, exist_ok=True)
                while (descriptor := take_lock(lock, 0o666)) is None:
                    on_wait()
                    time.sleep(LOOK_AGAIN_S)
        try:
            yield
        finally:
            if lock is not None and descriptor is not None:
                os.close(descriptor)
                with suppress(OSError):
                    lock.unlink()

    def entries(self) -> list[tuple[Path, int]]:
        """Returns the LoRA files and their sizes in bytes, the least recently used first."""
        if self.folder is None or not self.folder.is_dir():
            return []
        records = sorted(self.folder.glob("*.json"), key=lambda path: path.stat().st_mtime)
        files = [path.with_suffix(".safetensors") for path in records]
        return [(path, path.stat().st_size) for path in files if path.is_file()]

    def clear(self) -> int:
        """Removes all LoRAs from the store and returns their number. Run folders keep theirs."""
        found = self.entries()
        for path, _ in found:
            _remove(path)
        return len(found)

    def _prune(self) -> None:
        found = self.entries()
        total = sum(size for _, size in found)
        for path, size in found[:-1]:
            if total > self._limit:
                _remove(path)
                total -= size

    def _place(self, stem: str, suffix: str = ".safetensors") -> Path:
        assert self.folder is not None
        return self.folder / f"{stem}-{self._made_by}{suffix}"

    def _drop(self, stem: str) -> None:
        with suppress(OSError):
            _remove(self._place(stem))


def open_store(place: str | None) -> Store:
    """Opens the store that a user asks for.

    Args:
        place: a folder or ``none``; None means the folder in the environment, else one in the user's cache.

    Raises:
        InputError: the folder that the user named cannot be created or written to.
    """
    asked = place or os.environ.get(PLACE)
    if asked == "none":
        return Store(None)
    folder = Path(asked).expanduser() if asked else cache_folder("loras")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK | os.X_OK):
            return Store(folder)
    except OSError:
        pass
    if asked:
        raise InputError(f"The store '{folder}' is not a writable folder. Give another --store, or none.")
    return Store(None)


def _remove(lora: Path) -> None:
    """Removes the record first, so that no record remains without its LoRA."""
    for path in (lora.with_suffix(".json"), lora):
        path.unlink(missing_ok=True)


def _link(source: Path, target: Path) -> None:
    """Hard-links a file to another place, or copies it where links are impossible; whole or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)  # renaming one link of a file to another link of it leaves both
