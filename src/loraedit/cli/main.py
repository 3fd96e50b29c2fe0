"""The command line: all commands, and how errors end them."""

from __future__ import annotations

import sys
from logging import getLogger
from typing import Annotated

import typer

from loraedit.cli.batch import batch
from loraedit.cli.doctor import doctor
from loraedit.cli.edit import edit
from loraedit.cli.evaluate import evaluate
from loraedit.cli.help_panels import PanelCommand
from loraedit.cli.lora import lora_app
from loraedit.cli.mask import mask
from loraedit.cli.models import models
from loraedit.cli.output import fail
from loraedit.cli.plan import plan
from loraedit.cli.repeat import repeat
from loraedit.cli.store import store
from loraedit.cli.web import web
from loraedit.errors import LoraEditError, explain
from loraedit.runtime.ranks import leads, processes
from loraedit.version import __version__

__all__ = ["app", "main"]

app = typer.Typer(
    name="loraedit",
    help="Edit the first frame of a video; loraedit edits the rest of the clip the same way.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

for command in (edit, mask, plan, evaluate, repeat, batch, web, models, store, doctor):
    app.command(cls=PanelCommand)(command)
app.add_typer(lora_app, name="lora")


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"loraedit {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    context: typer.Context,
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    if processes() > 1:
        from loraedit.families.kept_weights import keeping_weights
        from loraedit.runtime.distributed import assist, dismiss

        if not leads():
            with keeping_weights():
                assist()
            raise typer.Exit
        context.call_on_close(dismiss)


def main() -> None:
    """Runs a command; ends with 2 on errors of the user or of files, and with 1 if memory runs out."""
    getLogger("bitsandbytes").setLevel("ERROR")  # whoever imports it: it misses a kernel that loraedit does not use
    try:
        app()
    except Exception as error:
        message = explain(error)
        if message is None:
            raise
        sys.exit(fail(message, 2 if isinstance(error, LoraEditError | OSError) else 1))
