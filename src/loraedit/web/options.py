"""The options of ``loraedit web``, checked before the libraries of the server load."""

from __future__ import annotations

import importlib.util
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from loraedit.errors import InputError

__all__ = ["WebOptions"]

MIN_PASSWORD = 8
LIBRARIES = ("starlette", "uvicorn")
"""The libraries of the extra ``web``."""


@dataclass(frozen=True)
class WebOptions:
    """How the page is served.

    Attributes:
        port: 1 to 65535.
        folder: the folder for uploads and runs.
        models: the models that the page offers, as ``--model`` takes them.
        max_upload_mb: the largest upload in MiB.
        share_on_lan: serve other machines too; this needs a password.
        password: the password of the page; None asks for none.
    """

    port: int
    folder: Path
    models: Sequence[str] = ("nano",)
    max_upload_mb: int = 512
    share_on_lan: bool = False
    password: str | None = None

    @property
    def host(self) -> str:
        """Returns the address to listen on."""
        return "0.0.0.0" if self.share_on_lan else "127.0.0.1"

    def check(self) -> None:
        """Checks that a server can start with these options.

        Raises:
            InputError: a library is missing, the password is missing or short, or the port is taken.
        """
        missing = [name for name in LIBRARIES if importlib.util.find_spec(name) is None]
        if missing:
            raise InputError(f"The page needs {' and '.join(missing)}. Install with: pip install '.[web]'")
        if self.share_on_lan and not self.password:
            raise InputError("--share-on-lan needs a password. Give --password, or leave --share-on-lan out.")
        if self.password is not None and len(self.password) < MIN_PASSWORD:
            raise InputError(f"The password is too short. Give --password at least {MIN_PASSWORD} characters.")
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((self.host, self.port))
            except OSError as error:
                raise InputError(f"Port {self.port} is not free ({error.strerror}). Give another --port.") from error
