"""The application: the sessions of all users, and the queues that run their jobs."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from loraedit.web.queue import Queues
from loraedit.web.session import Session
from loraedit.web.user_files import UserFiles

__all__ = ["App"]

CACHED_SESSIONS = 256


class App:
    """All sessions, and the queues that they share.

    Args:
        root: the folder of all users' folders.
        models: the models that the page offers: names, Hub ids or folders.
    """

    def __init__(self, root: Path, models: list[str]) -> None:
        root.mkdir(parents=True, exist_ok=True)
        self._root = root
        self._models = [str(Path(model).absolute()) if Path(model).is_dir() else model for model in models]
        self._queues = Queues(root)
        self.session = lru_cache(CACHED_SESSIONS)(self._open_session)

    def start(self) -> None:
        """Starts the queues; jobs that an earlier server left come first."""
        self._queues.start()

    def close(self) -> None:
        """Stops all jobs; the next server continues them."""
        self._queues.close()

    def _open_session(self, user: str) -> Session:
        """Returns the session of a user; ``session`` keeps the latest ones."""
        return Session(UserFiles(self._root / user), self._models, self._queues)
