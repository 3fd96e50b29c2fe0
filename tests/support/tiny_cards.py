"""Writes the model card of the tiny checkpoints, with a recipe of a few steps."""

from __future__ import annotations

import json
from pathlib import Path

from loraedit.settings import PAPER, named_recipe

METHOD = {"edit_weight", "colour_variants", "fill", "restore_detail", "strength"}
CARRYING = named_recipe("propagate", PAPER).model_dump(include=METHOD)
"""The method of the recipe that carries keyframes."""
SHORT = {
    "steps": 6, "rank": 2, "lr": 1e-3, "mask_boxes": False, "trigger": "", "sampling_steps": 3, "guidance": 1.0,
    "scheduler": "model", "flow_shift": 0.0,
}  # fmt: skip
"""A few quick steps, the mask as it is, the bare prompt, and the checkpoint's own noise levels."""


def write_card(
    folder: Path, area_px: int = 1024, text_tokens: int = 8, least_area_px: int | None = None, **recipe: object
) -> Path:
    """Writes the card of a tiny checkpoint; recipe values replace those of ``SHORT``. Returns the folder.

    Without a least area, every window is worked on at ``area_px``.
    """
    areas = {"area_px": area_px, "least_area_px": least_area_px or area_px}
    card = {**areas, "text_tokens": text_tokens, "recipe": {**SHORT, **recipe}}
    (folder / "loraedit.json").write_text(json.dumps(card))
    return folder
