"""What ``loraedit web`` is told, checked before the server's libraries load."""

from __future__ import annotations

import importlib.util
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from loraedit.errors import InputError

__all__ = ["WebOptions", "serve"]

MIN_PASSWORD = 8
NEEDED = ("starlette", "uvicorn")


@dataclass(frozen=True)
class WebOptions:
    """How the page is served.

    Attributes:
        port: 1 to 65535.
        folder: everything uploaded or made is kept here.
        models: what the page offers, as ``--model`` takes it.
        max_upload_mb: the largest file that is taken, in MiB.
        share_on_lan: whether other machines may come; then a password is needed.
        password: asked for before anything is shown, if there is one.
    """

    port: int
    folder: Path
    models: Sequence[str] = ("nano",)
    max_upload_mb: int = 512
    share_on_lan: bool = False
    password: str | None = None

    @property
    def host(self) -> str:
        """The address that is listened on."""
        return "0.0.0.0" if self.share_on_lan else "127.0.0.1"


def serve(options: WebOptions) -> None:
    """Serve the page until interrupted; runs that were under way are continued.

    Raises:
        InputError: a library is missing, the port or the folder is taken, or sharing has no password.
    """
    _check(options)
    from loraedit.web.server import run_server  # needs the libraries

    run_server(options)


def _check(options: WebOptions) -> None:
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(f"The page needs {' and '.join(missing)}. Install with: pip install 'loraedit[web]'")
    if options.share_on_lan and not options.password:
        raise InputError("Everybody on the network could use the page. Give --password, or leave out --share-on-lan.")
    if options.password is not None and len(options.password) < MIN_PASSWORD:
        raise InputError(f"The password is too short. Give --password at least {MIN_PASSWORD} characters.")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((options.host, options.port))
        except OSError as error:
            raise InputError(f"Port {options.port} cannot be used ({error.strerror}). Give another --port.") from error
