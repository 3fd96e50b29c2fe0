"""Writes the model card of the tiny checkpoints, with a recipe of a few steps."""

from __future__ import annotations

import json
from pathlib import Path

from loraedit.settings import PAPER, Recipe

METHOD = {"edit_weight", "colour_variants", "fill", "restore_detail", "strength"}
PAPERS_METHOD, OWN_METHOD = PAPER.model_dump(include=METHOD), Recipe().model_dump(include=METHOD)
SHORT = {"steps": 6, "rank": 2, "lr": 1e-3, "sampling_steps": 3, "guidance": 1.0}


def write_card(folder: Path, area_px: int = 1024, text_tokens: int = 8, **recipe: object) -> Path:
    """Writes the card of a tiny checkpoint; recipe values replace those of ``SHORT``. Returns the folder."""
    card = {"area_px": area_px, "text_tokens": text_tokens, "recipe": {**PAPERS_METHOD, **SHORT, **recipe}}
    (folder / "loraedit.json").write_text(json.dumps(card))
    return folder
