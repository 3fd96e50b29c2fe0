"""What a finished edit leaves in its run folder, without loss: written here, and read back here.

- ``frames/``, ``source/``, ``mask/``: PNGs of the result, the clip and the edit mask (white = edit).
- ``first_frame_edited.png``: the user's edit of the first frame, at the clip's size.
- ``settings.json``: settings, versions, hashes of the inputs; written when the run starts.
- ``objects/N/``: of the Nth of several things that were edited at once its ``mask/`` and its edits of later frames.
- ``references/``: the user's edits of later frames, named by the frame; ``settings.json`` says which are of this run.
- ``result.json``: frame rate, losses, hashes; written last, so it marks a finished run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from loraedit.errors import InputError
from loraedit.masks.reading import to_picture
from loraedit.masks.tube import MaskTube
from loraedit.storage.files import fingerprint, read_json, write_json
from loraedit.types import Clip, Footage, Image, Origin, Size, Stored
from loraedit.video import open_footage, read_image, write_footage, write_image

__all__ = [
    "CLIP_FOLDERS",
    "EDITED_FIRST_FILE",
    "RUN_FORMAT",
    "SETTINGS_FILE",
    "Finished",
    "Kept",
    "KeptObject",
    "check_format",
    "check_run",
    "damaged",
    "in_memory",
    "input_hashes",
    "keep_frames",
    "lora_files",
    "object_folder",
    "read_finished",
    "write_finished",
]

CLIP_FOLDERS = ("frames", "source", "mask")
EDITED_FIRST_FILE = "first_frame_edited.png"
SETTINGS_FILE = "settings.json"
RESULT_FILE = "result.json"
RUN_FORMAT = 3
"""Stands in ``settings.json``; raise it when a run folder changes so that other versions of loraedit misread it."""

_WHERE = "Give the run folder of an edit, by default named OUT-run beside its output."
_AGAIN = "Run the same edit command again; it goes on from where it stopped."


@dataclass(frozen=True)
class Kept:
    """Footage of a folder of frames, which has neither frame rate nor origin, with those that it should have."""

    folder: Footage
    fps: Fraction
    origin: Origin | None = None

    @classmethod
    def of(cls, folder: Path, like: Footage) -> Kept:
        """The frames of a folder with the timing of the clip that they were made from."""
        return cls(open_footage(folder), like.fps, like.origin)

    def __len__(self) -> int:
        return len(self.folder)

    @property
    def size(self) -> Size:
        """Height and width of a frame, in pixels."""
        return self.folder.size

    @property
    def depth(self) -> int:
        """Bits that a channel has as it is stored."""
        return self.folder.depth

    @property
    def alpha(self) -> bool:
        """Whether there is opacity."""
        return self.folder.alpha

    @property
    def fingerprint(self) -> str:
        """Twelve hex digits of all frames."""
        return self.folder.fingerprint

    def rgb(self, start: int = 0, stop: int | None = None) -> Iterator[Image]:
        """See :meth:`loraedit.types.Footage.rgb`."""
        return self.folder.rgb(start, stop)

    def exact(self, start: int = 0, stop: int | None = None) -> Iterator[Stored]:
        """See :meth:`loraedit.types.Footage.exact`."""
        return self.folder.exact(start, stop)


@dataclass(frozen=True)
class KeptObject:
    """One of several things that were edited at once.

    Attributes:
        name: its name.
        mask: where it was edited.
        keyframes: its edited frames by frame index, uint8 ``[H, W, 3]``, in the order in which they are learnt.
        prompt: what was said of it, which stands in the prompt of the edit too.
    """

    name: str
    mask: MaskTube
    keyframes: dict[int, Image]
    prompt: str

    def provenance(self, number: int) -> dict[str, Any]:
        """How ``settings.json`` names it.

        Args:
            number: its place among all, from 0.
        """
        keyframes = {str(index): fingerprint(image) for index, image in sorted(self.keyframes.items())}
        return {
            "number": number,
            "mask": self.mask.fingerprint,
            "references": keyframes,
            "reference_order": list(self.keyframes),
            "prompt": self.prompt,
        }


@dataclass(frozen=True)
class Finished:
    """A finished edit.

    Attributes:
        source: the clip.
        result: the edited clip, of the same frames, size and frame rate.
        edit_mask: one plane for each frame, True = edit.
        edited_first: the user's edit of the first frame, uint8 ``[H, W, 3]``.
        losses: training loss by step; empty if no LoRA was trained.
        provenance: the contents of ``settings.json``: settings, hashes of the inputs, versions, device.
        loras: the LoRA files that it was generated with, in the run folder: of each object that for high noise first.
        references: the user's edits of later frames by frame index, uint8 ``[H, W, 3]``.
        objects: the things that were edited at once, in their order; empty if none were given.
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


def in_memory(footage: Footage) -> Clip:
    """A clip with all frames in memory, 8 bits deep."""
    return Clip(np.stack(list(footage.rgb())), footage.fps, footage.origin)


def input_hashes(source: str, fps: Fraction, edited_first: Image, edit_mask: MaskTube) -> dict[str, str]:
    """How ``settings.json`` names what went in.

    Args:
        source: the fingerprint of the clip's frames.
        fps: its frame rate.
        edited_first: the user's edit of the first frame.
        edit_mask: where it may change pixels.
    """
    return {
        "source": fingerprint(source, str(fps)),
        "first_frame": fingerprint(edited_first),
        "mask": edit_mask.fingerprint,
    }


def keep_frames(folder: Path, name: str, frames: Iterable[Stored], like: Footage | Fraction) -> Path:
    """Write frames without loss into a folder of the run folder, as they come; the folder.

    Raises:
        InputError: the folder cannot be written to.
    """
    write_footage(folder / name, frames, like)
    return folder / name


def write_finished(
    folder: Path, finished: Finished, told: Callable[[Iterator[Stored]], Iterator[Stored]] = iter
) -> None:
    """Write what is missing: all but ``settings.json`` and ``frames/``; the same edit gives the same bytes.

    Args:
        told: sees the source's frames as they are written, and passes them on.

    Raises:
        InputError: the folder cannot be written to.
    """
    keep_frames(folder, "source", told(finished.source.exact()), finished.source)
    keep_frames(folder, "mask", (to_picture(plane) for plane in finished.edit_mask), finished.source.fps)
    write_image(folder / EDITED_FIRST_FILE, finished.edited_first)
    for index, image in finished.references.items():
        write_image(_reference_file(folder, index), image)
    for number, each in enumerate(finished.objects):
        place = object_folder(folder, number)
        keep_frames(place, "mask", (to_picture(plane) for plane in each.mask), finished.source.fps)
        for index, image in each.keyframes.items():
            write_image(_reference_file(place, index), image)
    content = {
        "fps": str(finished.source.fps),
        "frames": finished.result.fingerprint,
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
        raise _unreadable(folder, error) from error
    _check_hashes(folder, finished, result)
    return finished


def _reference_file(folder: Path, index: int) -> Path:
    return folder / "references" / f"{index:05d}.png"


def object_folder(folder: Path, number: int) -> Path:
    """Where a run keeps one of several objects, numbered from 0."""
    return folder / "objects" / str(number)


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
    """A folder holds a finished run; what it holds is not read yet.

    Raises:
        InputError: it is not a run folder, or the run is not finished.
    """
    try:
        _read_records(folder)
    except OSError as error:
        raise _unreadable(folder, error) from error


def _unreadable(folder: Path, error: OSError) -> InputError:
    return InputError(f"'{folder}' cannot be read: {error.strerror or error}. Check the path.")


def lora_files(folder: Path) -> list[Path]:
    """The LoRA files of a finished edit, of each object that for high noise first.

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
    check_format(folder)
    provenance = _read_object(folder, SETTINGS_FILE)
    if not (folder / RESULT_FILE).is_file():
        raise InputError(f"The run in '{folder}' is not finished. {_AGAIN}")
    result = _read_object(folder, RESULT_FILE)
    if result.get("settings") != fingerprint(provenance):
        raise InputError(f"The run in '{folder}' was begun again and is not finished. {_AGAIN}")
    return provenance, result


def _read_object(folder: Path, name: str) -> dict[str, Any]:
    try:
        content = read_json(folder / name)
    except ValueError as error:
        raise damaged(folder, f"{name} is not JSON") from error
    if not isinstance(content, dict):
        raise damaged(folder, f"{name} holds no JSON object")
    return content


def _read_clips(folder: Path, result: dict[str, Any], provenance: dict[str, Any]) -> Finished:
    try:
        fps = Fraction(result["fps"])
        losses = [float(loss) for loss in result["losses"]]
        loras = [str(name) for name in result["loras"]]
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise damaged(folder, f"{RESULT_FILE} lacks the frame rate, the losses or the LoRAs") from error
    try:
        frames, source, mask = (Kept(open_footage(folder / name), fps) for name in CLIP_FOLDERS)
        tube = MaskTube(frame[..., 0] > 127 for frame in mask.rgb())
        edited_first = read_image(folder / EDITED_FIRST_FILE)
        references = {index: read_image(_reference_file(folder, index)) for index in _named_references(provenance)}
        objects = tuple(_read_object_of(folder, *each) for each in _named_objects(provenance))
    except InputError as error:
        raise damaged(folder, str(error).split(". ")[0]) from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise damaged(folder, f"{SETTINGS_FILE} does not describe the inputs") from error
    return Finished(source, frames, tube, edited_first, losses, provenance, loras, references, objects)


def _named_references(provenance: dict[str, Any]) -> dict[int, str]:
    """Returns the hashes of the references by frame index, in the order in which they were given."""
    inputs = provenance["inputs"]
    return {index: inputs["references"][str(index)] for index in inputs["reference_order"]}


def _named_objects(provenance: dict[str, Any]) -> list[tuple[int, str, dict[str, Any]]]:
    """Returns number, name and record of each object, by number."""
    return sorted((each["number"], name, each) for name, each in provenance["inputs"]["objects"].items())


def _read_object_of(folder: Path, number: int, name: str, record: dict[str, Any]) -> KeptObject:
    place = object_folder(folder, number)
    mask = MaskTube(frame[..., 0] > 127 for frame in open_footage(place / "mask").rgb())
    keyframes = {index: read_image(_reference_file(place, index)) for index in record["reference_order"]}
    return KeptObject(name, mask, keyframes, record["prompt"])


def _check_hashes(folder: Path, finished: Finished, result: dict[str, Any]) -> None:
    named = finished.provenance["inputs"]
    source = finished.source
    found = input_hashes(source.fingerprint, source.fps, finished.edited_first, finished.edit_mask)
    places = {"source": "source/", "first_frame": EDITED_FIRST_FILE, "mask": "mask/"}
    for name, place in places.items():
        if found[name] != named.get(name):
            raise damaged(folder, f"{place} is not what the edit was made from")
    for index, name in _named_references(finished.provenance).items():
        if fingerprint(finished.references[index]) != name:
            raise damaged(folder, f"references/{index:05d}.png is not what the edit was made from")
    for each, (number, _, record) in zip(finished.objects, _named_objects(finished.provenance), strict=True):
        if each.provenance(number) != record:
            raise damaged(folder, f"objects/{number} is not what the edit was made from")
    if finished.result.fingerprint != result.get("frames"):
        raise damaged(folder, "frames/ is not what the edit wrote")
