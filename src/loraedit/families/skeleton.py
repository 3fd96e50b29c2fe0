"""Opens a model by its name alone: the model card of a published model, without its weights. Needs no torch."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from loraedit.errors import ModelError
from loraedit.families.card import NANO, ModelCard, read_configuration
from loraedit.families.known import KnownModel, known_models, known_names
from loraedit.families.model_card import CARD_FILE
from loraedit.families.record import FamilyRecord
from loraedit.families.registry import record_of
from loraedit.storage.files import write_json

__all__ = ["open_skeleton"]


@contextmanager
def open_skeleton(model: str, files: Mapping[str, Path] | None = None) -> Iterator[ModelCard]:
    """Returns the model card of a model whose weights may be absent, except for single files.

    Args:
        model: ``nano``, a checkpoint folder, or a published model by its Hub id or short name.
        files: single files in place of transformers, whose headers are read; see :func:`read_configuration`.

    Raises:
        ModelError: the name is none of these, no family can run the model, or a file is not a transformer of it.
    """
    folder = NANO if model == "nano" else Path(model)
    known = next((row for row in known_models() if model.lower() in (row.id.lower(), row.short_name)), None)
    if known is None and not folder.is_dir():
        names = ", ".join(["nano", *known_names()])
        raise ModelError(
            f"Model '{model}' is neither a folder nor a known model. Give a checkpoint folder, or one of {names}."
        )
    if known is None:
        yield read_configuration(folder, files)
        return
    with tempfile.TemporaryDirectory(prefix="loraedit-") as place:
        _write(known, Path(place))
        yield read_configuration(Path(place), files)


def _write(model: KnownModel, folder: Path) -> None:
    """Writes the small JSON files of a checkpoint."""
    record = record_of(model.pipeline)
    index: dict[str, Any] = {"_class_name": model.index_class or model.pipeline, **model.options}
    for name, component in model.components.items():
        index[name] = [_library(record, name, component.kind), component.kind]
        write_json(folder / name / "config.json", {"_class_name": component.kind, **component.config})
    scheduler, config = model.scheduler
    index["scheduler"] = ["diffusers", scheduler]
    write_json(folder / "scheduler/scheduler_config.json", {"_class_name": scheduler, **config})
    for path, content in model.files.items():
        write_json(folder / path, content)
    write_json(folder / CARD_FILE, model.card.model_dump(exclude_unset=True))
    write_json(folder / "model_index.json", index)


def _library(record: FamilyRecord, component: str, kind: str) -> str:
    """Returns the library of a component's class, by the pattern that the family has for it."""
    return next(name for name in record.modules if re.fullmatch(record.components[component], f"{name}.{kind}"))
