"""The clips of I2VEdit: ``ITEM/source_and_edits/source.mp4`` and edited first frames beside it.

Read from github.com/Vicky0522/I2VEdit at d26e002e (2024-12-16) and the file list of its data set
``Vicky0522/I2VEdit-pretrained-videos``. The files may also lie in ITEM itself, as the examples of the repository's
``config`` have them. The set has no prompts, and its YAML files, which choose a stretch of the clip, are not read.
"""

from __future__ import annotations

import re
from pathlib import Path

from benchmarks.published.cases import Found, PublishedCase, case_name, images_in, need_file, need_folder, unique
from loraedit.errors import InputError

__all__ = ["read_i2vedit"]


def read_i2vedit(folder: Path) -> Found:
    """A :class:`benchmarks.published.cases.Reader`."""
    need_folder(folder)
    cases, without = [], []
    for item in sorted((path for path in folder.iterdir() if path.is_dir()), key=_numbers):
        place = item / "source_and_edits" if (item / "source_and_edits").is_dir() else item
        clip, edits = place / "source.mp4", images_in(place)
        if not clip.is_file() and not edits:
            without.append(item.name)
        elif not edits:
            raise InputError(f"'{place}' has a source.mp4 but no edited first frame. Fetch its source_and_edits again.")
        else:
            need_file(clip, "the clip of the edited frames beside it. Fetch its source_and_edits again.")
            cases += [PublishedCase(case_name(item.name, edit.stem), clip, edit) for edit in edits]
    left = tuple(f"'{name}' has neither a source.mp4 nor an edited frame and is left out." for name in without)
    return Found(unique(cases, folder), left)


def _numbers(path: Path) -> list[tuple[str, int]]:
    """Sorts item2 before item10."""
    return [(text, int(digits or 0)) for text, digits in re.findall(r"(\D*)(\d*)", path.name)]
