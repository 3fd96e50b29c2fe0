"""Reads and validates ``jobs.toml``: defaults, and a list of jobs or a grid of clips, looks and seeds."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from loraedit.batch.places import is_url
from loraedit.errors import InputError
from loraedit.settings import EditSettings, Seed
from loraedit.storage.files import check_plain, real

__all__ = ["BatchFile", "Cell", "cells_of", "read_batch_file"]

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,79}$")]


class ObjectEntry(BaseModel):
    """One of several objects that are edited at once."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    mask: str
    references: dict[int, str] = {}
    prompt: str = ""


class Entry(EditSettings):
    """Defaults, a clip, a look or a job: any part of an edit's request, and any of its settings.

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
        folder: folder or URL where everything is written; by default ``NAME-batch`` beside ``NAME.toml``.
        image_encoder: folder of a CLIP or similar model, for the metrics that need one.
        defaults: for all jobs.
        clips: make a grid with ``looks`` and ``seeds``; each clip has a name.
        looks: each with a name; without any there is one look, which clips and defaults describe.
        seeds: without any, clips and looks state the seed.
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
class Cell:
    """One job as the file describes it.

    Attributes:
        name: the job's name.
        values: what the file says about it, the most specific entry winning.
        place: names of its clip and look, and its seed, in the grid; empty for a job outside it.
    """

    name: str
    values: dict[str, Any]
    place: dict[str, str]


def read_batch_file(path: Path) -> BatchFile:
    """Reads a jobs file; its folders are made absolute, relative to the file's folder.

    Raises:
        InputError: it cannot be read, or has an unknown key or a value out of its range.
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
        raise InputError(f"{path.name}: {_message(error)}") from error
    base = real(path).parent
    folder = batch.folder or f"{path.stem}-batch"
    encoder = None if batch.image_encoder is None else str(base / batch.image_encoder)
    return batch.model_copy(
        update={"folder": folder if is_url(folder) else str(base / folder), "image_encoder": encoder}
    )


def cells_of(file: str, batch: BatchFile) -> list[Cell]:
    """Returns all jobs in the order in which they are written, each with a name of its own.

    Args:
        file: the file's name, for messages.

    Raises:
        InputError: there are none, or a name is missing or given twice.
    """
    _check_entries(file, batch)
    cells = [*_grid(batch), *_listed(batch)]
    seen: set[str] = set()
    for cell in cells:
        if cell.name.casefold() in seen:
            raise InputError(f"{file}: there are two jobs '{cell.name}'. Give each a name of its own.")
        seen.add(cell.name.casefold())
    return cells


def _grid(batch: BatchFile) -> Iterator[Cell]:
    defaults = _values(batch.defaults)
    for clip, look, seed in product(batch.clips, batch.looks or (_NOTHING,), batch.seeds or (None,)):
        place = {"clip": clip.name, "look": look.name, "seed": None if seed is None else str(seed)}
        known = {name: value for name, value in place.items() if value is not None}
        values = {**defaults, **_values(clip), **_values(look), **({} if seed is None else {"seed": seed})}
        yield Cell("-".join(known.values()), values, known)


def _listed(batch: BatchFile) -> Iterator[Cell]:
    for job in batch.jobs:
        yield Cell(str(job.name), {**_values(batch.defaults), **_values(job)}, {})


def _values(entry: Entry) -> dict[str, Any]:
    """Returns what an entry states itself."""
    return entry.model_dump(exclude_unset=True)


def _check_entries(file: str, batch: BatchFile) -> None:
    if batch.defaults.name is not None:
        raise InputError(f"{file}: the defaults cannot have a name. Give names to clips, looks and jobs.")
    if (batch.looks or batch.seeds) and not batch.clips:
        raise InputError(f"{file}: looks and seeds make a grid with clips, but there are none. Add [[clips]].")
    for kind in ("clips", "looks", "jobs"):
        for index, entry in enumerate(getattr(batch, kind)):
            if entry.name is None:
                raise InputError(f"{file}: '{kind}.{index}' has no name. Give each a name of its own.")
    if not batch.clips and not batch.jobs:
        raise InputError(f"{file}: there is nothing to do. Add [[clips]], or [[jobs]].")


def _message(error: ValidationError) -> str:
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
