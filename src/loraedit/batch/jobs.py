"""The jobs of a batch: every path absolute, and identified by the content of their inputs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loraedit.batch.entries import BatchFile, Cell, cells_of, read_batch_file
from loraedit.batch.places import fetch, is_url, stamp
from loraedit.errors import InputError
from loraedit.job.captioner import AUTO
from loraedit.job.edits import joint_prompt, object_of
from loraedit.settings import EditSettings, affects_training, is_path
from loraedit.storage.files import fingerprint, real

__all__ = ["BatchJob", "folder_of", "read_jobs"]

BATCH_FORMAT = 1
"""Part of every job's key; raise it when the meaning of a job changes, so that finished jobs are done again."""

FOR_THE_BATCH = ("device", "store", "download")
"""Settings that the batch decides for all jobs, or that the user decides before it."""

TEXTS = ("prompt", "source_prompt", "captioner")
"""Settings that reach the motion LoRA through the text of the source alone."""

TAKEN = ("run", "outcome.json", "thumb.jpg")
"""Other names in a job's folder."""


@dataclass(frozen=True)
class BatchJob:
    """One edit of a batch.

    Attributes:
        name: unique; the name of its folder.
        group: equal for jobs that train the same motion LoRA.
        key: identifies everything that decides its result, the content of its inputs included.
        source: the clip: a path or a URL, as all inputs below.
        first_frame: the edited first frame.
        mask: a mask, a box, or None for an automatic mask.
        references: edited frames by frame index.
        objects: objects as :func:`loraedit.job.edits.object_of` takes them.
        out: name of the result in the job's folder.
        settings: fields of :class:`loraedit.settings.EditSettings`.
        place: clip, look and seed in the grid.
    """

    name: str
    group: str
    key: str
    source: str
    first_frame: str
    mask: str | None
    references: dict[int, str]
    objects: tuple[dict[str, Any], ...]
    out: str
    settings: dict[str, Any]
    place: dict[str, str] = field(default_factory=dict)

    def inputs(self) -> dict[str, Any]:
        """Returns the inputs as :class:`loraedit.job.request.EditRequest` takes them, copied to this machine.

        Raises:
            InputError: one cannot be fetched.
        """
        objects = [
            {**each, "mask": _fetch_mask(each["mask"]), "references": _fetch_all(each["references"])}
            for each in self.objects
        ]
        return {
            "source": fetch(self.source),
            "first_frame": fetch(self.first_frame),
            "mask": _fetch_mask(self.mask),
            "references": _fetch_all(self.references),
            "objects": [object_of(each) for each in objects],
        }


def folder_of(name: str) -> str:
    """Returns the place of a job in the batch's folder."""
    return f"jobs/{name}"


def read_jobs(path: Path) -> tuple[BatchFile, list[BatchJob]]:
    """Reads a jobs file.

    Returns:
        The file, and its jobs in the order in which they are written; paths are relative to the file's folder.

    Raises:
        InputError: the file cannot be read, has an unknown key or a value out of its range, or names a missing input.
    """
    batch = read_batch_file(path)
    base = real(path).parent
    return batch, [_job(path.name, base, cell) for cell in cells_of(path.name, batch)]


# ---- one job ---------------------------------------------------------------------------------------------------------


def _job(file: str, base: Path, cell: Cell) -> BatchJob:
    """Makes a job's paths absolute, and computes its group and key.

    Raises:
        InputError: something is missing, or is not for a job to decide.
    """
    _check_values(file, cell)
    values, places = cell.values, _Places(base, cell.place)
    objects = tuple(
        {**each, "mask": places.mask(each["mask"]), "references": places.references(each.get("references", {}))}
        for each in values.get("objects", ())
    )
    references, mask = places.references(values.get("references", {})), places.mask(values.get("mask"))
    source, first = places.absolute(values["source"]), places.absolute(values["first_frame"])
    given = {name: value for name, value in values.items() if name in EditSettings.model_fields}
    settings = {name: _anchored(base, name, value) for name, value in given.items()}
    out, masks = values.get("out", "edited.mp4"), _mask_files(mask, objects)
    try:
        content = {place: stamp(place) for place in (source, first, *references.values(), *masks)}
        text = _source_text(settings, [each.get("prompt", "") for each in objects])
    except InputError as error:
        raise InputError(f"{file}: job '{cell.name}': {error}") from error
    shared = {name: value for name, value in settings.items() if name not in TEXTS and affects_training(name, "motion")}
    shared["source_text"] = text
    edits = [content[first], *(content[each] for each in references.values())]
    tracked = edits if not objects and mask in (None, "auto") else []
    group = fingerprint(content[source], [content[each] for each in masks] or mask, shared, sorted(references), tracked)
    sorted_objects = [{**each, "references": sorted(each["references"].items())} for each in objects]
    inputs = [source, first, mask, sorted(references.items()), sorted_objects, content]
    key = fingerprint(BATCH_FORMAT, inputs, settings, out)
    return BatchJob(cell.name, group, key, source, first, mask, references, objects, out, settings, dict(cell.place))


def _source_text(settings: Mapping[str, Any], of_objects: Sequence[str]) -> list[str]:
    """Returns what a LoRA is told about the source: a text, or the captioner that writes it.

    Without either the prompt takes its place, as in an edit. So jobs whose prompts differ share a LoRA if they give the
    same source prompt.

    Raises:
        InputError: prompts of objects are given beside a prompt of "auto".
    """
    captioner, text = settings.get("captioner"), settings.get("source_prompt")
    if captioner and text in (None, "", AUTO):
        return [AUTO, captioner]
    return [text or joint_prompt(settings.get("prompt", ""), of_objects)]


def _check_values(file: str, cell: Cell) -> None:
    for wanted in ("source", "first_frame"):
        if cell.values.get(wanted) is None:
            raise InputError(
                f"{file}: job '{cell.name}' has no {wanted}. Give it in the job, its clip or the defaults."
            )
    decided = [name for name in FOR_THE_BATCH if name in cell.values]
    if decided:
        raise InputError(f"{file}: job '{cell.name}' gives '{decided[0]}', which jobs cannot decide. Leave it out.")
    out = cell.values.get("out")
    if out in TAKEN:
        raise InputError(f"{file}: the result of job '{cell.name}' cannot be called '{out}'. Choose another name.")


@dataclass(frozen=True)
class _Places:
    """Makes paths absolute.

    Attributes:
        base: the folder of the jobs file.
        names: what ``{clip}``, ``{look}`` and ``{seed}`` stand for.
    """

    base: Path
    names: Mapping[str, str]

    def absolute(self, text: str) -> str:
        """Returns a path or URL with its placeholders filled in."""
        for part, value in self.names.items():
            text = text.replace(f"{{{part}}}", value)
        return text if is_url(text) else str(self.base / text)

    def mask(self, mask: str | None) -> str | None:
        """Returns a mask; boxes and "auto" stay as they are."""
        return mask if mask is None or not _is_place(mask) else self.absolute(mask)

    def references(self, references: Mapping[int, str]) -> dict[int, str]:
        """Returns references by frame index."""
        return {int(index): self.absolute(place) for index, place in references.items()}


def _mask_files(mask: str | None, objects: Sequence[dict[str, Any]]) -> list[str]:
    """Returns the files of all masks and of the objects' references."""
    masks = [mask, *(each["mask"] for each in objects)]
    references = [place for each in objects for place in each["references"].values()]
    return [*(each for each in masks if each is not None and _is_place(each)), *references]


def _is_place(mask: str) -> bool:
    return mask != "auto" and re.fullmatch(r"\s*-?\d+(\s*,\s*-?\d+){3}\s*", mask) is None


def _fetch_mask(mask: str | None) -> str | None:
    return mask if mask is None or not _is_place(mask) else str(fetch(mask))


def _fetch_all(references: Mapping[int, str]) -> dict[int, Path]:
    return {index: fetch(place) for index, place in references.items()}


def _anchored(base: Path, name: str, value: Any) -> Any:
    """Makes a setting absolute if it names a file or folder beside the jobs file."""
    if not is_path(name):
        return value
    if isinstance(value, tuple):
        return tuple(_beside(base, each) for each in value)
    return _beside(base, value) if isinstance(value, str) else value


def _beside(base: Path, text: str) -> str:
    """Resolves ``FILE`` as well as ``FILE:0.8``."""
    head, colon, rest = text.partition(":")
    return f"{real(base / head)}{colon}{rest}" if head and (base / head).exists() else text
