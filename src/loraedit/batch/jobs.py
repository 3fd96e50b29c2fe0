"""``jobs.toml``: defaults, and a list of jobs or a grid of clips, looks and seeds; checked before anything runs."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from loraedit.batch.places import fetch, is_url, stamp
from loraedit.errors import InputError
from loraedit.job.edits import object_of
from loraedit.settings import EditSettings, Seed, affects_training, is_path
from loraedit.storage.files import check_plain, fingerprint, real

__all__ = ["BatchFile", "BatchJob", "folder_of", "read_jobs"]

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,79}$")]
OWN = ("name", "source", "first_frame", "mask", "references", "objects", "out")
"""Fields of an entry that are no settings."""

FOR_THE_BATCH = ("device", "store", "download")
"""Settings that the batch decides for all, or that the user decides before it."""

BATCH_FORMAT = 1
"""Goes into every job's key; raise it when the meaning of a job changes, so that finished jobs are done again."""

TAKEN = ("run", "outcome.json", "thumb.jpg")
"""What else is in a job's folder."""


class ObjectEntry(BaseModel):
    """One of several things that are edited at once."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    mask: str
    references: dict[int, str] = {}
    prompt: str = ""


class Entry(EditSettings):
    """Defaults, a clip, a look or a job: any part of what an edit is asked for, and any of its settings.

    In paths ``{clip}``, ``{look}`` and ``{seed}`` stand for the names in the grid, and the seed.
    """

    name: Name | None = None
    source: str | None = None
    first_frame: str | None = None
    mask: str | None = None
    references: dict[int, str] = Field({})
    objects: tuple[ObjectEntry, ...] = ()
    out: Name = "edited.mp4"


_NOTHING = Entry.model_validate({})


class BatchFile(BaseModel):
    """The whole file.

    Attributes:
        folder: where everything is written: a folder or a URL; by default ``NAME-batch`` beside ``NAME.toml``.
        image_encoder: a CLIP or like model, as a folder, for the measures that need one.
        defaults: for all jobs.
        clips: with ``looks`` and ``seeds`` a grid; each clip has a name.
        looks: each with a name; without any there is one look, which clips and defaults describe.
        seeds: without any, the one that the others say.
        jobs: further jobs, each with a name.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    folder: str | None = None
    image_encoder: str | None = None
    defaults: Entry = _NOTHING
    clips: tuple[Entry, ...] = ()
    looks: tuple[Entry, ...] = ()
    seeds: tuple[Seed, ...] = ()
    jobs: tuple[Entry, ...] = ()


@dataclass(frozen=True)
class BatchJob:
    """One edit of a batch.

    Attributes:
        name: its own alone; the name of its folder.
        group: the same for jobs that learn the same motion.
        key: all that decides its result, the content of its inputs among it.
        source: the clip: a path or a URL, as are all that follow.
        first_frame: the edited first frame.
        mask: or a box, or None for an automatic one.
        references: edited frames by frame index.
        objects: things that are edited at once, as :func:`loraedit.job.edits.object_of` takes them.
        out: the result's name in the job's folder.
        settings: of :class:`loraedit.settings.EditSettings`.
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
        """The inputs as :class:`loraedit.job.request.EditRequest` takes them, on this machine.

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


def _fetch_mask(mask: str | None) -> str | None:
    return mask if mask is None or not _is_place(mask) else str(fetch(mask))


def _fetch_all(references: Mapping[int, str]) -> dict[int, Path]:
    return {index: fetch(place) for index, place in references.items()}


def _is_place(mask: str) -> bool:
    return mask != "auto" and re.fullmatch(r"\s*-?\d+(\s*,\s*-?\d+){3}\s*", mask) is None


def folder_of(name: str) -> str:
    """Where a job has its place in the batch's folder."""
    return f"jobs/{name}"


# ---- reading ---------------------------------------------------------------------------------------------------------


def read_jobs(path: Path) -> tuple[BatchFile, list[BatchJob]]:
    """The file, and its jobs in the order in which they are written; paths count from the file's folder.

    Raises:
        InputError: it cannot be read, has a key that is not known or a value out of its range, or names something
            that is not there.
    """
    if path.exists():
        check_plain(path, "a jobs file")
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise InputError(f"The jobs file '{path}' cannot be read: {reason}. Check the path.") from error
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise InputError(f"The jobs file '{path}' is not valid TOML: {error}.") from error
    try:
        batch = BatchFile.model_validate(content)
    except ValidationError as error:
        raise InputError(f"{path.name}: {_told(error)}") from error
    base = real(path).parent
    folder = batch.folder or f"{path.stem}-batch"
    batch = batch.model_copy(update={
        "folder": folder if is_url(folder) else str(base / folder),
        "image_encoder": None if batch.image_encoder is None else str(base / batch.image_encoder),
    })  # fmt: skip
    cells = list(_cells(path.name, batch))
    _check_names(path.name, [name for name, *_ in cells])
    return batch, [_job(path.name, base, *each) for each in cells]


def _told(error: ValidationError) -> str:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        kind = first["loc"][0] if len(first["loc"]) > 1 else None
        known = ObjectEntry if "objects" in first["loc"][:-1] else Entry if kind else BatchFile
        return f"there is no key '{where}'. Known are {', '.join(known.model_fields)}."
    message = first["msg"].removeprefix("Input ")
    if first["type"] == "string_pattern_mismatch":
        message = "should be a plain name of letters, digits, '.', '_' and '-'"
    return f"'{where}' {message}, but it is {first['input']!r}."


def _cells(file: str, batch: BatchFile) -> Iterator[tuple[str, dict[str, Any], dict[str, str]]]:
    """Name, values and place in the grid of each job."""
    defaults = _values(batch.defaults)
    if "name" in defaults:
        raise InputError(f"{file}: the defaults cannot have a name. Give names to clips, looks and jobs.")
    if (batch.looks or batch.seeds) and not batch.clips:
        raise InputError(f"{file}: looks and seeds make a grid with clips, but there are none. Add [[clips]].")
    for kind in ("clips", "looks", "jobs"):
        for index, entry in enumerate(getattr(batch, kind)):
            if entry.name is None:
                raise InputError(f"{file}: '{kind}.{index}' has no name. Give each a name of its own.")
    for clip, look, seed in product(batch.clips, batch.looks or (_NOTHING,), batch.seeds or (None,)):
        place = {"clip": clip.name, "look": look.name, "seed": None if seed is None else str(seed)}
        known = {name: str(value) for name, value in place.items() if value is not None}
        values = {**defaults, **_values(clip), **_values(look), **({} if seed is None else {"seed": seed})}
        yield "-".join(known.values()), values, known
    for job in batch.jobs:
        yield str(job.name), {**defaults, **_values(job)}, {}
    if not batch.clips and not batch.jobs:
        raise InputError(f"{file}: there is nothing to do. Add [[clips]], or [[jobs]].")


def _values(entry: Entry) -> dict[str, Any]:
    """What an entry says itself."""
    return entry.model_dump(exclude_unset=True)


def _check_names(file: str, names: Sequence[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name.casefold() in seen:
            raise InputError(f"{file}: there are two jobs '{name}'. Give each a name of its own.")
        seen.add(name.casefold())


def _job(file: str, base: Path, name: str, values: dict[str, Any], place: dict[str, str]) -> BatchJob:
    """A job with all its places absolute, and told by their content.

    Raises:
        InputError: something is missing.
    """
    for wanted in ("source", "first_frame"):
        if values.get(wanted) is None:
            raise InputError(f"{file}: job '{name}' has no {wanted}. Give it in the job, its clip or the defaults.")
    decided = [each for each in FOR_THE_BATCH if each in values]
    if decided:
        raise InputError(f"{file}: job '{name}' gives '{decided[0]}', which is not for a job to say. Leave it out.")

    if values.get("out") in TAKEN:
        raise InputError(f"{file}: the result of job '{name}' cannot be called '{values['out']}'. Choose another name.")

    def whole(text: str) -> str:
        for part, value in place.items():
            text = text.replace(f"{{{part}}}", value)
        return text if is_url(text) else str(base / text)

    def mask_of(mask: str | None) -> str | None:
        return mask if mask is None or not _is_place(mask) else whole(mask)

    objects = tuple(
        {**each, "mask": mask_of(each["mask"]), "references": _whole_all(each.get("references", {}), whole)}
        for each in values.get("objects", ())
    )
    references = _whole_all(values.get("references", {}), whole)
    source, first, mask = whole(values["source"]), whole(values["first_frame"]), mask_of(values.get("mask"))
    settings = {key: _anchored(base, key, value) for key, value in values.items() if key not in OWN}
    try:
        content = {
            place: stamp(place)
            for place in (source, first, *references.values(), *_places(mask, objects))
        }  # fmt: skip
    except InputError as error:
        raise InputError(f"{file}: job '{name}': {error}") from error
    automatic = not objects and mask in (None, "auto")
    taught = {key: value for key, value in settings.items() if affects_training(key, "motion")}
    group = fingerprint(
        content[source], [content.get(each, each) for each in _places(mask, objects)] or mask, taught,
        sorted(references), [content[first], *(content[each] for each in references.values())] if automatic else [],
    )  # fmt: skip
    out = values.get("out", "edited.mp4")
    told = [
        BATCH_FORMAT,
        source,
        first,
        mask,
        sorted(references.items()),
        _told_objects(objects),
        out,
        settings,
        content,
    ]
    return BatchJob(
        name, group, fingerprint(told), source, first, mask, references, objects, out, settings, dict(place)
    )


def _whole_all(references: Mapping[int, str], whole: Any) -> dict[int, str]:
    return {int(index): whole(place) for index, place in references.items()}


def _places(mask: str | None, objects: Sequence[dict[str, Any]]) -> list[str]:
    """The files of masks and of objects' references."""
    found = [mask, *(each["mask"] for each in objects)]
    looks = [place for each in objects for place in each["references"].values()]
    return [*(each for each in found if each is not None and _is_place(each)), *looks]


def _told_objects(objects: Sequence[dict[str, Any]]) -> list[Any]:
    return [{**each, "references": sorted(each["references"].items())} for each in objects]


def _anchored(base: Path, key: str, value: Any) -> Any:
    """A setting that names a file or folder beside the jobs file by its whole path; all others as they are."""
    if key == "extra_lora":
        return tuple(_beside(base, each) for each in value)
    if is_path(key) and isinstance(value, str):
        return _beside(base, value)
    return value


def _beside(base: Path, text: str) -> str:
    """``FILE:0.8`` as well as ``FILE``."""
    head, colon, rest = text.partition(":")
    return f"{real(base / head)}{colon}{rest}" if head and (base / head).exists() else text
