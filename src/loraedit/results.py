"""What a finished edit leaves in its run folder, without loss: written here, and read back here.

- ``frames/``, ``source/``, ``mask/``: PNGs of the result, the clip and the edit mask (white = edit).
- ``first_frame_edited.png``: the user's edit of the first frame, at the clip's size.
- ``settings.json``: settings, versions, hashes of the inputs; written when the run starts.
- ``result.json``: frame rate, losses, hashes; written last, so it marks a finished run.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

from loraedit.errors import InputError
from loraedit.files import fingerprint, write_json
from loraedit.masks import to_pictures
from loraedit.types import Clip, Image, Mask
from loraedit.video import read_clip, read_image, write_clip, write_image

__all__ = [
    "CLIP_FOLDERS",
    "EDITED_FIRST_FILE",
    "SETTINGS_FILE",
    "Finished",
    "damaged",
    "input_hashes",
    "lora_files",
    "read_finished",
    "write_finished",
]

CLIP_FOLDERS = ("frames", "source", "mask")
EDITED_FIRST_FILE = "first_frame_edited.png"
SETTINGS_FILE = "settings.json"
RESULT_FILE = "result.json"

_WHERE = "Give the run folder of an edit, by default named OUT-run beside its output."
_AGAIN = "Run the same edit command again; it goes on from where it stopped."


@dataclass(frozen=True)
class Finished:
    """A finished edit.

    Attributes:
        source: the clip.
        result: the edited clip, of the same frames, size and frame rate.
        edit_mask: bool ``[F, H, W]``, True = edit.
        edited_first: the user's edit of the first frame, uint8 ``[H, W, 3]``.
        losses: training loss by step; empty if no LoRA was trained.
        provenance: the contents of ``settings.json``: settings, hashes of the inputs, versions, device.
        loras: the LoRA files that it was generated with, in the run folder, that for high noise first.
    """

    source: Clip
    result: Clip
    edit_mask: Mask
    edited_first: Image
    losses: list[float]
    provenance: dict[str, Any]
    loras: list[str] = field(default_factory=list)


def input_hashes(source: Clip, edited_first: Image, edit_mask: Mask) -> dict[str, str]:
    """How ``settings.json`` names what went in."""
    return {
        "source": fingerprint(source.frames, str(source.fps)),
        "first_frame": fingerprint(edited_first),
        "mask": fingerprint(edit_mask),
    }


def write_finished(folder: Path, finished: Finished) -> None:
    """Write everything but ``settings.json``, which is there since the run began; the same edit gives the same bytes.

    Raises:
        InputError: the folder cannot be written to.
    """
    clips = finished.result, finished.source, Clip(to_pictures(finished.edit_mask), finished.source.fps)
    for name, clip in zip(CLIP_FOLDERS, clips, strict=True):
        write_clip(folder / name, clip)
    write_image(folder / EDITED_FIRST_FILE, finished.edited_first)
    content = {
        "fps": str(finished.source.fps),
        "frames": fingerprint(finished.result.frames),
        "loras": finished.loras,
        "losses": finished.losses,
        "settings": fingerprint(finished.provenance),
    }
    write_json(folder / RESULT_FILE, content)


def read_finished(folder: Path) -> Finished:
    """A finished edit, compared with the hashes that were written with it.

    Raises:
        InputError: it is not a run folder, the run is not finished, or a file is damaged or not of this run.
    """
    try:
        provenance, result = _read_records(folder)
        finished = _read_clips(folder, result, provenance)
    except OSError as error:
        raise InputError(f"'{folder}' cannot be read: {error.strerror or error}. Check the path.") from error
    _check_hashes(folder, finished, result)
    return finished


def lora_files(folder: Path) -> list[Path]:
    """The LoRA files of a finished edit, that for high noise first.

    Raises:
        InputError: it is not a run folder, the run is not finished or trained no LoRA, or a file is missing.
    """
    names = _read_records(folder)[1].get("loras")
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
    """The error for a run folder in which something is wrong."""
    return InputError(f"The run folder '{folder}' is damaged: {what}. Run the same edit command again to mend it.")


def _read_records(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """``settings.json`` and ``result.json`` of a finished run."""
    if not folder.is_dir():
        raise InputError(f"There is no folder '{folder}'. {_WHERE}")
    if not (folder / SETTINGS_FILE).is_file():
        raise InputError(f"'{folder}' is not a run folder: it has no {SETTINGS_FILE}. {_WHERE}")
    provenance = _read_object(folder, SETTINGS_FILE)
    if not (folder / RESULT_FILE).is_file():
        raise InputError(f"The run in '{folder}' is not finished. {_AGAIN}")
    result = _read_object(folder, RESULT_FILE)
    if result.get("settings") != fingerprint(provenance):
        raise InputError(f"The run in '{folder}' was begun again and is not finished. {_AGAIN}")
    return provenance, result


def _read_object(folder: Path, name: str) -> dict[str, Any]:
    try:
        content = json.loads((folder / name).read_text(encoding="utf-8"))
    except ValueError as error:
        raise damaged(folder, f"{name} is not JSON") from error
    if not isinstance(content, dict):
        raise damaged(folder, f"{name} holds no JSON object")
    return content


def _read_clips(folder: Path, result: dict[str, Any], provenance: dict[str, Any]) -> Finished:
    try:
        fps = Fraction(result["fps"])
        losses = [float(loss) for loss in result["losses"]]
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise damaged(folder, f"{RESULT_FILE} lacks the frame rate or the losses") from error
    try:
        frames, source, mask = (read_clip(folder / name).frames for name in CLIP_FOLDERS)
        edited_first = read_image(folder / EDITED_FIRST_FILE)
    except InputError as error:
        raise damaged(folder, str(error).split(". ")[0]) from error
    return Finished(Clip(source, fps), Clip(frames, fps), mask[..., 0] > 127, edited_first, losses, provenance)


def _check_hashes(folder: Path, finished: Finished, result: dict[str, Any]) -> None:
    inputs = finished.provenance.get("inputs")
    named = inputs if isinstance(inputs, dict) else {}
    found = input_hashes(finished.source, finished.edited_first, finished.edit_mask)
    places = {"source": "source/", "first_frame": EDITED_FIRST_FILE, "mask": "mask/"}
    for name, place in places.items():
        if found[name] != named.get(name):
            raise damaged(folder, f"{place} is not what the edit was made from")
    if fingerprint(finished.result.frames) != result.get("frames"):
        raise damaged(folder, "frames/ is not what the edit wrote")
