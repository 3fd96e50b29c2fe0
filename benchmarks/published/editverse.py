"""EditVerseBench's first-frame subset: the entries of ``test.json`` that have an edited first frame.

Read from github.com/adobe-research/EditVerse at eeca9ce9 (2025-10-08), whose README shows the folders and the keys
``<text>``, ``<video1>``, ``target_prompt``, ``source_prompt``, ``type``. The file itself is not public in that
repository, so how it names edited first frames is not verified. Three ways are read, in this order: a key
``edited_first_frame``; a tag such as ``<image1>`` or ``<video2>`` whose path lies in ``edited_first_frame/``; a file
``edited_first_frame/ID.png`` (or another image or .mp4), for frames that you made yourself.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.published.cases import Found, PublishedCase, case_name, need_file, need_folder, unique
from loraedit.errors import InputError
from loraedit.storage.files import read_json
from loraedit.video import IMAGE_SUFFIXES

__all__ = ["read_editverse"]

FILES = ("test.json", "EditVerseBench.json")
FIRST = "edited_first_frame"
FETCH = "which download_source_video.py of the set fetches; run it again."


def read_editverse(folder: Path) -> Found:
    """A :class:`benchmarks.published.cases.Reader`."""
    need_folder(folder)
    file = next((folder / name for name in FILES if (folder / name).is_file()), None)
    if file is None:
        raise InputError(f"'{folder}' has neither {' nor '.join(FILES)}. Give the folder that holds it.")
    entries = _entries(file)
    edited = {key: _edited_first(folder, key, entry) for key, entry in entries.items()}
    cases = [_case(folder, file, key, entries[key], first) for key, first in edited.items() if first is not None]
    if not cases:
        raise InputError(
            f"No entry of '{file}' has an edited first frame. Put your edits into '{folder / FIRST}', named ID.png "
            "after the entries."
        )
    missing = len(entries) - len(cases)
    left = (f"{missing} of {len(entries)} entries have no edited first frame and are left out.",) if missing else ()
    return Found(unique(cases, folder), left)


def _entries(file: Path) -> dict[str, Mapping[str, Any]]:
    try:
        entries = read_json(file)
    except (OSError, ValueError) as error:
        raise InputError(f"'{file}' cannot be read as JSON: {error}.") from error
    if not isinstance(entries, dict) or not all(isinstance(entry, dict) for entry in entries.values()):
        raise InputError(f"'{file}' is not an object of entries by number, as EditVerseBench has it.")
    return entries


def _edited_first(folder: Path, key: str, entry: Mapping[str, Any]) -> Path | None:
    """Returns the edited first frame of an entry, or None if it has none."""
    stated = [entry[FIRST]] if FIRST in entry else []
    stated += [value for name, value in entry.items() if re.fullmatch(r"<(image|video)\d+>", name)]
    for value in stated:
        path = Path(str(value))
        if path.parent.name == FIRST or value == entry.get(FIRST):
            return need_file(folder / path, f"the edited first frame of entry {key}.")
    named = (folder / FIRST / f"{key}{suffix}" for suffix in (*sorted(IMAGE_SUFFIXES), ".mp4"))
    return next((path for path in named if path.is_file()), None)


def _case(folder: Path, file: Path, key: str, entry: Mapping[str, Any], first: Path) -> PublishedCase:
    texts: dict[str, str] = {}
    for name in ("<video1>", "target_prompt", "source_prompt"):
        value = entry.get(name)
        if value is not None and not isinstance(value, str):
            raise InputError(f"'{file}': '{name}' of entry {key} is not text.")
        texts[name] = value or ""
    if not texts["<video1>"] or Path(texts["<video1>"]).parent.name == FIRST:
        raise InputError(f"'{file}': entry {key} has an edited first frame, but no clip in '<video1>'.")
    clip = need_file(folder / texts["<video1>"], FETCH)
    return PublishedCase(case_name(key), clip, first, texts["target_prompt"] or None, texts["source_prompt"] or None)
