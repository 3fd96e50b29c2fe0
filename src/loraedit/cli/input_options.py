"""The options that ``edit`` and ``plan`` share beside the settings."""

from __future__ import annotations

from typing import Annotated

import typer

from loraedit.cli.help_panels import MOST_USED

__all__ = ["FirstFrame", "MaskOption", "Reference"]

FirstFrame = Annotated[str, typer.Option(help="The edited first frame of the clip.", rich_help_panel=MOST_USED)]
MaskOption = Annotated[
    str,
    typer.Option(
        help="Where the clip may change (white): auto, a video, a folder of frames, an image for all frames, or a box "
        "x0,y0,x1,y1. auto tracks what the edited frames change.",
        rich_help_panel=MOST_USED,
    ),
]
Reference = Annotated[
    list[str] | None,
    typer.Option(
        metavar="K=PNG", help="The edited frame K, counted from 0. Can be repeated.", rich_help_panel=MOST_USED
    ),
]
