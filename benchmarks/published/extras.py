"""Reads what you add to a published set: masks, references and prompts, in one folder for each case.

EXTRAS/CASE/mask.png (an image or a video) or mask/ (frames)
EXTRAS/CASE/K.png                          an edited frame K
EXTRAS/CASE/prompt.txt, source_prompt.txt
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.published.cases import PublishedCase, need_folder
from loraedit.errors import InputError
from loraedit.video import IMAGE_SUFFIXES

__all__ = ["add_extras"]

MASK_SUFFIXES = (*IMAGE_SUFFIXES, ".mkv", ".mov", ".mp4", "")
TEXTS = ("prompt", "source_prompt")


def add_extras(cases: Sequence[PublishedCase], folder: Path) -> tuple[PublishedCase, ...]:
    """Returns the cases with what the folder adds to them.

    Raises:
        InputError: it names an unknown case, or holds a file of another name.
    """
    need_folder(folder)
    known = {case.name for case in cases}
    for place in sorted(folder.iterdir()):
        if place.name not in known:
            raise InputError(f"'{place}' belongs to no case. The cases are {', '.join(sorted(known))}.")
    return tuple(_extended(case, folder / case.name) for case in cases)


def _extended(case: PublishedCase, folder: Path) -> PublishedCase:
    if not folder.is_dir():
        return case
    changes: dict[str, Any] = {}
    references: dict[int, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.stem == "mask" and path.suffix.lower() in MASK_SUFFIXES:
            changes["mask"] = path
        elif path.stem in TEXTS and path.suffix == ".txt":
            changes[path.stem] = path.read_text(encoding="utf-8").strip()
        elif path.stem.isdecimal() and path.suffix.lower() in IMAGE_SUFFIXES:
            references[int(path.stem)] = path
        else:
            raise InputError(f"'{path}' is not a mask, a frame K.png, prompt.txt or source_prompt.txt. Rename it.")
    return replace(case, **changes, references={**case.references, **references})
