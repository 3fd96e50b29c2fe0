"""Prepares inputs for the chaos and fuzz scripts, with the tests' helpers: a tiny checkpoint and a small edit."""

from __future__ import annotations

import importlib
import os
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np

from loraedit.types import Clip
from loraedit.video import write_clip, write_image

os.environ["HF_HUB_OFFLINE"] = "1"
SUPPORT = Path(__file__).parents[1] / "tests/support"
sys.path.insert(0, str(SUPPORT))


def write_inputs(folder: Path, frames: int) -> None:
    """Writes ``model/``, ``source.mkv``, ``mask.mkv``, ``edited.png`` and ``last.png`` into a folder."""
    scene = importlib.import_module("scenes").make_scene(frames)
    write_model(folder / "model")
    write_clip(folder / "source.mkv", Clip(scene.source, Fraction(10)))
    white = np.repeat(scene.mask[..., None] * np.uint8(255), 3, -1)
    write_clip(folder / "mask.mkv", Clip(white, Fraction(10)))
    write_image(folder / "edited.png", scene.edited_first)
    write_image(folder / "last.png", scene.source[-1] // 2)


def write_model(folder: Path) -> Path:
    """Writes a tiny random checkpoint and returns its folder."""
    importlib.import_module("tiny").save_tiny_wan(folder)
    importlib.import_module("tiny_cards").write_card(folder)
    return folder
