"""The run folder of an edit: its layout, its format, and the records in it.

- ``frames/``, ``source/``, ``mask/``: PNGs of the result, the clip and the edit mask (white = edit).
- ``first_frame_edited.png``: the edited first frame, at the clip's size.
- ``references/``: the references of everything, named by the frame.
- ``objects/N/``: the ``mask/`` and ``references/`` of the Nth object.
- ``settings.json``: settings, versions, hashes of the inputs; written when the run starts.
- ``result.json``: frame rate, losses, hashes; written last, so it marks a finished run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from loraedit.errors import InputError
from loraedit.storage.files import fingerprint, read_json

__all__ = [
    "CLIP_FOLDERS",
    "EDITED_FIRST_FILE",
    "RESULT_FILE",
    "RUN_FORMAT",
    "SETTINGS_FILE",
    "check_format",
    "check_run",
    "damaged",
    "lora_files",
    "object_folder",
    "read_records",
    "reference_file",
    "unreadable",
]

CLIP_FOLDERS = ("frames", "source", "mask")
EDITED_FIRST_FILE = "first_frame_edited.png"
SETTINGS_FILE = "settings.json"
RESULT_FILE = "result.json"
RUN_FORMAT = 5
"""Stands in ``settings.json``; raise it when a run folder changes so that other versions of loraedit misread it."""

_WHERE = "Give the run folder of an edit, by default named OUT-run beside its output."
_AGAIN = "Run the same edit command again; it continues where it stopped."


def object_folder(folder: Path, number: int) -> Path:
    """Returns the folder of one of several objects, numbered from 0."""
    return folder / "objects" / str(number)


def reference_file(folder: Path, index: int) -> Path:
    """Returns the file of a reference by frame index, in a run folder or in an object's folder."""
    return folder / "references" / f"{index:05d}.png"


def check_format(folder: Path) -> None:
    """Checks that a folder may be worked in: it is new or of this format; a damaged record will be written anew.

    Raises:
        InputError: another version of loraedit made it.
    """
    try:
        content = read_json(folder / SETTINGS_FILE)
    except (OSError, ValueError):
        return
    found = content.get("format", 1) if isinstance(content, dict) else RUN_FORMAT
    if found != RUN_FORMAT:
        raise InputError(
            f"The run folder '{folder}' has format {found}, but this loraedit uses format {RUN_FORMAT}. "
            "Use the loraedit that made it, or give another run folder."
        )


def check_run(folder: Path) -> None:
    """Checks that a folder holds a finished run, without reading its pictures.

    Raises:
        InputError: it is not a run folder, or the run is not finished.
    """
    try:
        read_records(folder)
    except OSError as error:
        raise unreadable(folder, error) from error


def read_records(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Reads ``settings.json`` and ``result.json`` of a finished run.

    Raises:
        InputError: it is not a run folder of this format, the run is not finished, or a record is damaged.
        OSError: a record cannot be read.
    """
    if not folder.is_dir():
        raise InputError(f"There is no folder '{folder}'. {_WHERE}")
    if not (folder / SETTINGS_FILE).is_file():
        raise InputError(f"'{folder}' is not a run folder: it has no {SETTINGS_FILE}. {_WHERE}")
    check_format(folder)
    provenance = _read_record(folder, SETTINGS_FILE)
    if not (folder / RESULT_FILE).is_file():
        raise InputError(f"The run in '{folder}' is not finished. {_AGAIN}")
    result = _read_record(folder, RESULT_FILE)
    if result.get("settings") != fingerprint(provenance):
        raise InputError(f"The run in '{folder}' was started again and is not finished. {_AGAIN}")
    return provenance, result


def lora_files(folder: Path) -> list[Path]:
    """Returns the LoRA files of a finished edit, the high-noise expert of each edit target first.

    Raises:
        InputError: it is not a run folder, the run is not finished or trained no LoRA, or a file is missing.
    """
    names = read_records(folder)[1].get("loras")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise damaged(folder, f"{RESULT_FILE} does not name the LoRA")
    files = [folder / "lora" / Path(name).name for name in names]
    if not files:
        raise InputError(f"The run in '{folder}' trained no LoRA. Give a run with --lora motion or naive.")
    for file in files:
        if not file.is_file():
            raise damaged(folder, f"lora/{file.name} is missing")
    return files


def damaged(folder: Path, what: str) -> InputError:
    """Returns the error for a damaged run folder.

    Args:
        what: what is wrong, as a clause.
    """
    return InputError(f"The run folder '{folder}' is damaged: {what}. Run the same edit command again to repair it.")


def unreadable(folder: Path, error: OSError) -> InputError:
    """Returns the error for a run folder that the system cannot read."""
    return InputError(f"'{folder}' cannot be read: {error.strerror or error}. Check the path.")


def _read_record(folder: Path, name: str) -> dict[str, Any]:
    try:
        content = read_json(folder / name)
    except ValueError as error:
        raise damaged(folder, f"{name} is not JSON") from error
    if not isinstance(content, dict):
        raise damaged(folder, f"{name} holds no JSON object")
    return content
