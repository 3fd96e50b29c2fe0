"""One clip with one edited first frame, as every form of folder is read."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from loraedit.errors import InputError
from loraedit.storage.files import fingerprint
from loraedit.video import IMAGE_SUFFIXES

__all__ = ["Found", "PublishedCase", "Reader", "case_name", "images_in", "need_file", "need_folder", "unique"]

MAX_NAME = 80
"""Characters; the limit of a job's name."""


@dataclass(frozen=True)
class PublishedCase:
    """A clip with an edited first frame.

    Attributes:
        name: unique in its set, and the name of its job.
        clip: the source clip.
        edited_first: the edited first frame: an image, or a video whose first frame it is.
        prompt: what the edited clip shows; None if the set has no text.
        source_prompt: what the clip shows; None if the set has no text.
        mask: where the edit may change pixels; None for an automatic mask.
        references: further edited frames by frame index.
    """

    name: str
    clip: Path
    edited_first: Path
    prompt: str | None = None
    source_prompt: str | None = None
    mask: Path | None = None
    references: Mapping[int, Path] = field(default_factory=dict)


@dataclass(frozen=True)
class Found:
    """The contents of a folder.

    Attributes:
        cases: in a stable order; at least one.
        left_out: sentences about what the folder has beyond them.
    """

    cases: tuple[PublishedCase, ...]
    left_out: tuple[str, ...] = ()


class Reader(Protocol):
    """Reads a folder of one form; looks at names and JSON only, not into clips or images."""

    def __call__(self, folder: Path) -> Found:
        """Returns the cases of a folder.

        Raises:
            InputError: the folder does not have the form, or a file is missing.
        """
        ...


def case_name(*parts: str) -> str:
    """Joins parts to a name for a job: letters, digits, ``.`` and ``-``; what is too long ends in a hash."""
    name = re.sub(r"[^A-Za-z0-9.]+", "-", "-".join(parts)).strip("-.") or fingerprint(parts)
    return name if len(name) <= MAX_NAME else f"{name[: MAX_NAME - 9]}-{fingerprint(parts)[:8]}"


def unique(cases: Iterable[PublishedCase], folder: Path) -> tuple[PublishedCase, ...]:
    """Returns the cases.

    Raises:
        InputError: there are none, or two have one name.
    """
    every, seen = tuple(cases), dict[str, PublishedCase]()
    if not every:
        raise InputError(f"'{folder}' has no clip with an edited first frame.")
    for case in every:
        other = seen.setdefault(case.name.casefold(), case)
        if other is not case:
            files = f"'{other.edited_first}' and '{case.edited_first}'"
            raise InputError(f"{files} would both be case '{case.name}'. Rename one of them.")
    return every


def images_in(folder: Path) -> list[Path]:
    """Returns the images of a folder by name; none if there is no such folder."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())


def need_folder(folder: Path) -> None:
    """Checks that there is a folder.

    Raises:
        InputError: there is none.
    """
    if not folder.is_dir():
        raise InputError(f"'{folder}' is not a folder. Check the path.")


def need_file(path: Path, why: str) -> Path:
    """Returns a file's path.

    Raises:
        InputError: there is no such file.
    """
    if not path.is_file():
        raise InputError(f"There is no '{path}', {why}")
    return path
