"""Builds tiny folders in the forms of published sets, each with one clip and two edits of it."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import numpy as np
from metric_clips import texture

from loraedit.types import Clip, Frames
from loraedit.video import write_clip, write_image

COLOURS = {"blue square": (40, 60, 220), "green square": (40, 220, 60)}


def red_square(frames: int = 5, height: int = 48, width: int = 64) -> Frames:
    """Draws a red square that moves right by 2 pixels a frame over a smooth texture, which codecs keep."""
    source = np.repeat(texture(height, width)[None], frames, 0)
    for index in range(frames):
        source[index, 16:32, 12 + 2 * index : 28 + 2 * index] = (200, 40, 40)
    return source


def _clip(path: Path) -> None:
    write_clip(path, Clip(red_square(), Fraction(5)))


def _edit(path: Path, name: str) -> None:
    edited = red_square()[0]
    edited[16:32, 12:28] = COLOURS[name]
    write_image(path, edited)


def anyv2v_set(folder: Path) -> Path:
    """Writes a repository with a demo folder; one of its edits has an entry in the configuration."""
    for name in COLOURS:
        _edit(folder / "demo/Red Square/edited_first_frame" / f"{name}.png", name)
    _clip(folder / "demo/Red Square.mp4")
    (folder / "demo/Your-Video-Name/edited_first_frame").mkdir(parents=True)
    entry = {
        "active": False,
        "video_name": "Red Square",
        "edited_first_frame_path": "demos/Red Square/edited_first_frame/blue square.png",
        "editing_prompt": "a blue square over noise",
    }
    config = folder / "i2vgen-xl/configs/group_pnp_edit/group_config.json"
    config.parent.mkdir(parents=True)
    config.write_text(json.dumps([entry]))
    return folder


def i2vedit_set(folder: Path) -> Path:
    """Writes two items in the layout of the data set, and one in that of the repository's examples."""
    for item in ("item2/source_and_edits", "item10"):
        _clip(folder / item / "source.mp4")
        _edit(folder / item / "blue.png", "blue square")
    _edit(folder / "item2/source_and_edits/green_hat.png", "green square")
    (folder / "item2/source_and_edits/config.yaml").write_text("seed: 23\n")
    (folder / "item3/attention_store").mkdir(parents=True)
    return folder


def editverse_set(folder: Path) -> Path:
    """Writes a benchmark of five entries; three of them name or have an edited first frame, each another way."""
    _clip(folder / "videos/1-2.mp4")
    _edit(folder / "edited_first_frame/frame.png", "blue square")
    _edit(folder / "edited_first_frame/3.png", "green square")
    edited = red_square()
    edited[:, 16:32, 12:28] = COLOURS["green square"]
    write_clip(folder / "edited_first_frame/edited.mp4", Clip(edited, Fraction(5)))
    entry = {
        "<text>": "<video1> Make the square blue.",
        "<video1>": "videos/1-2.mp4",
        "<video1> link": "https://example.org/videos/square-1/",
        "direction": "horizontal",
        "target_prompt": "a blue square over noise",
        "type": "change object",
        "source_prompt": "a red square over noise",
    }
    entries = {
        "0": {**entry, "<image1>": "edited_first_frame/frame.png"},
        "1": {**entry, "<image1>": "images/reference.png"},
        "2": {**entry, "<video2>": "edited_first_frame/edited.mp4"},
        "3": entry,
        "4": {**entry, "<video1>": "videos/never-fetched.mp4"},
    }
    (folder / "test.json").write_text(json.dumps(entries))
    return folder


SETS = {"anyv2v": anyv2v_set, "i2vedit": i2vedit_set, "editverse": editverse_set}
"""Builders by form."""


def row(text: str, name: str) -> list[str]:
    """Returns the cells of the first table row of a page that begins with a name."""
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
    return next(line for line in lines if line[0] == name)
