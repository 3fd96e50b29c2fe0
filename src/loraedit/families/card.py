"""Finds checkpoints and reads their model cards from small JSON files and headers, before any weights load.

A folder in diffusers layout is enough. A file ``loraedit.json`` beside ``model_index.json`` may state the working
size and the recipe; without it the values of the published model apply.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from loraedit.errors import ModelError
from loraedit.families.folder import AGAIN, check_components, check_plain, read_json, weights_shapes
from loraedit.families.model_card import ModelCard
from loraedit.families.registry import find_record, record_of, records

__all__ = ["NANO", "ModelCard", "read_card", "read_configuration"]

NANO = Path(__file__).parents[1] / "nano"


def read_card(folder: Path, files: Mapping[str, Path] | None = None) -> ModelCard:
    """Reads and checks a checkpoint's configuration, and the headers of all its weights.

    Args:
        folder: the checkpoint.
        files: single files (``.safetensors``, ``.gguf``) in place of the folders ``transformer``, ``transformer_2``.

    Raises:
        ModelError: the folder is not an image-to-video checkpoint that takes a mask, or is incomplete or damaged.
    """
    card = read_configuration(folder, files)
    record = record_of(card.pipeline)
    for name in card.components:
        if name not in card.files:
            shapes = weights_shapes(folder / name)
            if name in card.experts:
                with _nonsense_refused(folder, card.pipeline):
                    record.check_transformer(card, name, shapes)
    if "tokenizer" in record.components and not any((folder / "tokenizer").glob("*")):
        raise ModelError(f"'{folder}' has no tokenizer. {AGAIN}")
    return card


def read_configuration(folder: Path, files: Mapping[str, Path] | None = None) -> ModelCard:
    """Reads the card of a checkpoint from its small JSON files; its weights may be absent.

    Args:
        files: as for :func:`read_card`.

    Raises:
        ModelError: the folder is not an image-to-video checkpoint that takes a mask.
    """
    check_plain(folder)
    index = read_json(folder, "model_index.json")
    pipeline = index.get("_class_name")
    record = find_record(pipeline)
    if record is None:
        readable = [name for family in records() for name in family.pipelines]
        raise ModelError(
            f"'{folder}' holds a {pipeline}, not an image-to-video model that loraedit supports. "
            f"Expected a checkpoint in diffusers layout of {', '.join(readable)}."
        )
    check_components(folder, index, record.components, record.modules)
    with _nonsense_refused(folder, str(pipeline)):
        return record.read_card(folder, index, files or {})


@contextmanager
def _nonsense_refused(folder: Path, pipeline: str) -> Iterator[None]:
    """Turns an exception that a nonsensical configuration causes into a ModelError of one sentence."""
    try:
        yield
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise ModelError(
            f"The configuration of '{folder}' is not that of a {pipeline} ({type(error).__name__}: {error}). {AGAIN}"
        ) from error
