"""Writes the cases as the jobs.toml of a batch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.published.cases import PublishedCase
from loraedit.batch.places import stamp
from loraedit.errors import InputError
from loraedit.job.edits import read_edit
from loraedit.settings import EditSettings, is_path
from loraedit.storage.files import write_text
from loraedit.tracking.changes import EditedEverywhere, changed_region, name_of_frame
from loraedit.types import Size
from loraedit.video import IMAGE_SUFFIXES, open_footage, write_footage, write_image

__all__ = ["BATCH", "write_jobs"]

BATCH = "batch"
"""Folder of the batch in the working folder."""
RESULT = "edited.mkv"
"""Lossless, so that other programs measure what was made."""


def write_jobs(
    cases: Sequence[PublishedCase], settings: Mapping[str, Any], work: Path, frames: int | None
) -> tuple[Path, list[str]]:
    """Writes ``jobs.toml`` into the working folder.

    A case without a mask gets an automatic one, or the whole frame if its edit changes that, as a change of style does.

    Args:
        settings: of every job, as in the defaults of a batch; paths are relative to the current folder.
        frames: sample longer clips evenly at so many frames; None keeps them as they are.

    Returns:
        The file, and sentences about the cases that get the whole frame.

    Raises:
        InputError: a clip or an edited first frame cannot be read, or ``frames`` is below 1.
    """
    if frames is not None and frames < 1:
        raise InputError(f"--frames is {frames}. Expected 1 or more.")
    lines = [f"folder = {_toml(BATCH)}", "", "[defaults]"]
    given = {name: _absolute(name, value) for name, value in settings.items()}
    defaults: dict[str, Any] = {"fit": True, "out": RESULT, **given}
    lines += [f"{_toml(name)} = {_toml(value)}" for name, value in defaults.items()]
    notes = []
    for case in cases:
        entry = _job(case, work, frames)
        automatic = case.mask is None and "mask" not in given
        if automatic and (box := _whole_frame(entry, defaults["fit"])) is not None:
            entry["mask"] = box
            notes.append(f"The edit of {case.name} changes the whole frame, so its mask is the whole frame.")
        lines += ["", "[[jobs]]", *(f"{name} = {_toml(value)}" for name, value in entry.items())]
    file = work / "jobs.toml"
    work.mkdir(parents=True, exist_ok=True)
    write_text(file, "\n".join(lines) + "\n")
    return file, notes


def _job(case: PublishedCase, work: Path, frames: int | None) -> dict[str, Any]:
    """Returns the entry of a case; what it does not say is left to the defaults."""
    entry = {
        "name": case.name,
        "source": str(_sampled(case.clip, work / "clips", frames).resolve()),
        "first_frame": str(_still(case.edited_first, work / "first_frames").resolve()),
        "mask": None if case.mask is None else str(case.mask.resolve()),
        "references": {str(index): str(path.resolve()) for index, path in sorted(case.references.items())} or None,
        "prompt": case.prompt,
        "source_prompt": case.source_prompt,
    }
    return {name: value for name, value in entry.items() if value is not None}


def _whole_frame(entry: Mapping[str, Any], fit: bool) -> str | None:
    """Returns the whole frame as a box if the edited first frame differs from the source nearly everywhere."""
    source = next(open_footage(Path(entry["source"])).rgb(0, 1))
    height, width = source.shape[:2]
    try:
        changed_region(source, read_edit(entry["first_frame"], Size(height, width), fit, name_of_frame(0)))
    except EditedEverywhere:
        return f"0,0,{width},{height}"
    except InputError as error:
        raise InputError(f"Case '{entry['name']}': {error}") from error
    return None


def _sampled(clip: Path, folder: Path, frames: int | None) -> Path:
    """Returns a clip of at most so many frames, evenly spaced over the whole, first and last included."""
    if frames is None:
        return clip
    path = folder / f"{clip.stem}-{frames}-{stamp(str(clip))}.mkv"
    if path.exists():
        return path
    footage = open_footage(clip)
    if len(footage) <= frames:
        return clip
    kept = set(np.linspace(0, len(footage) - 1, frames).round().astype(int).tolist())
    rate = Fraction(footage.fps) * frames / len(footage)
    write_footage(path, (frame for index, frame in enumerate(footage.rgb()) if index in kept), rate)
    return path


def _still(first: Path, folder: Path) -> Path:
    """Returns an image: the file itself, or the first frame of a video."""
    if first.suffix.lower() in IMAGE_SUFFIXES:
        return first
    path = folder / f"{first.stem}-{stamp(str(first))}.png"
    if not path.exists():
        write_image(path, next(open_footage(first).rgb(0, 1)))
    return path


def _absolute(name: str, value: Any) -> Any:
    """Makes a setting absolute if it names a file or folder here, ``FILE:0.8`` included."""
    if isinstance(value, list):
        return [_absolute(name, each) for each in value]
    if name not in EditSettings.model_fields or not is_path(name) or not isinstance(value, str):
        return value
    head, colon, rest = value.partition(":")
    return f"{Path(head).resolve()}{colon}{rest}" if head and Path(head).exists() else value


def _toml(value: Any) -> str:
    """Writes a value as TOML, whose strings, numbers and lists are those of JSON."""
    if isinstance(value, Mapping):
        return f"{{ {', '.join(f'{_toml(str(name))} = {_toml(each)}' for name, each in value.items())} }}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(_toml(each) for each in value)}]"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
