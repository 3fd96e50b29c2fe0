"""``loraedit web``: serves the web page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["web"]


def web(
    port: Annotated[int, typer.Option(help="The port of the page.", min=1, max=65535)] = 7860,
    folder: Annotated[Path, typer.Option(help="The folder for uploads and runs.")] = Path("loraedit-web"),
    model: Annotated[
        list[str] | None,
        typer.Option(help="A model that the page offers beside nano: a folder or a Hub id. Can be repeated."),
    ] = None,
    max_upload_mb: Annotated[int, typer.Option(help="The largest upload in MiB.", min=1, max=1_000_000)] = 512,
    share_on_lan: Annotated[
        bool, typer.Option("--share-on-lan", help="Serve the local network too. Needs --password.")
    ] = False,
    password: Annotated[
        str | None,
        typer.Option(help="The password of the page, at least 8 characters.", envvar="LORAEDIT_WEB_PASSWORD"),
    ] = None,
) -> None:
    """Serve a web page for editing."""
    from loraedit.web import WebOptions, serve

    serve(WebOptions(port, folder, ["nano", *(model or [])], max_upload_mb, share_on_lan, password))
