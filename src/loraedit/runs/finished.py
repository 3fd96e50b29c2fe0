"""A finished edit in its run folder: written without loss, and read back and compared with its hashes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

from loraedit.errors import InputError
from loraedit.masks.reading import to_picture
from loraedit.masks.tube import MaskTube
from loraedit.runs.folder import (
    CLIP_FOLDERS,
    EDITED_FIRST_FILE,
    RESULT_FILE,
    SETTINGS_FILE,
    damaged,
    object_folder,
    read_records,
    reference_file,
    unreadable,
)
from loraedit.runs.kept import Kept, KeptObject
from loraedit.storage.files import fingerprint, write_json
from loraedit.types import Footage, Image, Stored
from loraedit.video import open_footage, read_image, write_footage, write_image

__all__ = ["Finished", "input_hashes", "keep_frames", "read_finished", "write_finished"]


@dataclass(frozen=True)
class Finished:
    """A finished edit.

    Attributes:
        source: the clip.
        result: the edited clip, of the same frames, size and frame rate.
        edit_mask: one plane for each frame, True = edit.
        edited_first: the edited first frame, uint8 ``[H, W, 3]``.
        losses: training loss by step; empty if no LoRA was trained.
        provenance: the contents of ``settings.json``: settings, hashes of the inputs, versions, device.
        loras: names of the LoRA files in the run folder, the high-noise expert of each edit target first.
        references: the references of everything by frame index, uint8 ``[H, W, 3]``.
        objects: the objects, in their order; empty if none were given.
    """

    source: Footage
    result: Footage
    edit_mask: MaskTube
    edited_first: Image
    losses: list[float]
    provenance: dict[str, Any]
    loras: list[str] = field(default_factory=list)
    references: dict[int, Image] = field(default_factory=dict)
    objects: tuple[KeptObject, ...] = ()


def input_hashes(source: str, fps: Fraction, edited_first: Image, edit_mask: MaskTube) -> dict[str, str]:
    """Returns the hashes of the inputs by their names in ``settings.json``.

    Args:
        source: the fingerprint of the clip's frames.
        fps: the clip's frame rate.
        edited_first: the edited first frame.
        edit_mask: the mask of everything.
    """
    return {
        "source": fingerprint(source, str(fps)),
        "first_frame": fingerprint(edited_first),
        "mask": edit_mask.fingerprint,
    }


# ---- writing ---------------------------------------------------------------------------------------------------------


def keep_frames(folder: Path, name: str, frames: Iterable[Stored], like: Footage | Fraction) -> Path:
    """Writes frames without loss into a folder of the run folder, one at a time, and returns that folder.

    Raises:
        InputError: the folder cannot be written to.
    """
    write_footage(folder / name, frames, like)
    return folder / name


def write_finished(
    folder: Path, finished: Finished, watch: Callable[[Iterator[Stored]], Iterator[Stored]] = iter
) -> None:
    """Writes everything but ``settings.json`` and ``frames/``; the same edit gives the same bytes.

    Args:
        watch: passes the source's frames on as they are written.

    Raises:
        InputError: the folder cannot be written to.
    """
    fps = finished.source.fps
    keep_frames(folder, "source", watch(finished.source.exact()), finished.source)
    _write_mask(folder, finished.edit_mask, fps)
    write_image(folder / EDITED_FIRST_FILE, finished.edited_first)
    _write_references(folder, finished.references)
    for number, each in enumerate(finished.objects):
        _write_mask(object_folder(folder, number), each.mask, fps)
        _write_references(object_folder(folder, number), each.keyframes)
    content = {
        "fps": str(fps),
        **({} if finished.source.timed else {"timed": False}),
        "frames": finished.result.fingerprint,
        "loras": finished.loras,
        "losses": finished.losses,
        "settings": fingerprint(finished.provenance),
    }
    write_json(folder / RESULT_FILE, content)


def _write_mask(folder: Path, mask: MaskTube, fps: Fraction) -> None:
    keep_frames(folder, "mask", (to_picture(plane) for plane in mask), fps)


def _write_references(folder: Path, references: dict[int, Image]) -> None:
    for index, image in references.items():
        write_image(reference_file(folder, index), image)


# ---- reading ---------------------------------------------------------------------------------------------------------


def read_finished(folder: Path) -> Finished:
    """Reads a finished edit and compares it with the hashes that were written with it.

    Raises:
        InputError: it is not a run folder, the run is not finished, or a file is damaged or not of this run.
    """
    try:
        provenance, result = read_records(folder)
        finished = _read_pictures(folder, result, provenance)
    except OSError as error:
        raise unreadable(folder, error) from error
    _check_hashes(folder, finished, result)
    return finished


def _read_pictures(folder: Path, result: dict[str, Any], provenance: dict[str, Any]) -> Finished:
    try:
        fps, timed = Fraction(result["fps"]), bool(result.get("timed", True))
        losses = [float(loss) for loss in result["losses"]]
        loras = [str(name) for name in result["loras"]]
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise damaged(folder, f"{RESULT_FILE} lacks the frame rate, the losses or the LoRAs") from error
    try:
        frames, source, mask = (Kept(open_footage(folder / name), fps, timed=timed) for name in CLIP_FOLDERS)
        edited_first = read_image(folder / EDITED_FIRST_FILE)
        references = {index: read_image(reference_file(folder, index)) for index in _reference_hashes(provenance)}
        objects = tuple(_read_object(folder, *each) for each in _object_records(provenance))
        tube = _tube_of(mask)
    except InputError as error:
        raise damaged(folder, str(error).split(". ")[0]) from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise damaged(folder, f"{SETTINGS_FILE} does not describe the inputs") from error
    return Finished(source, frames, tube, edited_first, losses, provenance, loras, references, objects)


def _tube_of(mask: Footage) -> MaskTube:
    return MaskTube(frame[..., 0] > 127 for frame in mask.rgb())


def _reference_hashes(provenance: dict[str, Any]) -> dict[int, str]:
    """Returns the hashes of the references by frame index, in the order in which they were given."""
    inputs = provenance["inputs"]
    return {index: inputs["references"][str(index)] for index in inputs["reference_order"]}


def _object_records(provenance: dict[str, Any]) -> list[tuple[int, str, dict[str, Any]]]:
    """Returns number, name and record of each object, by number."""
    return sorted((each["number"], name, each) for name, each in provenance["inputs"]["objects"].items())


def _read_object(folder: Path, number: int, name: str, record: dict[str, Any]) -> KeptObject:
    place = object_folder(folder, number)
    keyframes = {index: read_image(reference_file(place, index)) for index in record["reference_order"]}
    return KeptObject(name, _tube_of(open_footage(place / "mask")), keyframes, record["prompt"])


def _check_hashes(folder: Path, finished: Finished, result: dict[str, Any]) -> None:
    named, source = finished.provenance["inputs"], finished.source
    found = input_hashes(source.fingerprint, source.fps, finished.edited_first, finished.edit_mask)
    places = {"source": "source/", "first_frame": EDITED_FIRST_FILE, "mask": "mask/"}
    for name, place in places.items():
        if found[name] != named.get(name):
            raise damaged(folder, f"{place} is not what the edit was made from")
    for index, name in _reference_hashes(finished.provenance).items():
        if fingerprint(finished.references[index]) != name:
            raise damaged(folder, f"references/{index:05d}.png is not what the edit was made from")
    for each, (number, _, record) in zip(finished.objects, _object_records(finished.provenance), strict=True):
        if each.provenance(number) != record:
            raise damaged(folder, f"objects/{number} is not what the edit was made from")
    if finished.result.fingerprint != result.get("frames"):
        raise damaged(folder, "frames/ is not what the edit wrote")
