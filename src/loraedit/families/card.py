"""Finds checkpoints and reads their model cards from small JSON files and headers, before any weights load.

A folder in diffusers layout is enough. A file ``loraedit.json`` beside ``model_index.json`` may state the working
size and the recipe; without it the values of the published model apply.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from loraedit.errors import ModelError
from loraedit.families.folder import AGAIN, check_components, check_plain, read_json, weights_shapes
from loraedit.families.known import known_model
from loraedit.families.model_card import ModelCard
from loraedit.families.registry import find_record, record_of, records

__all__ = ["NANO", "ModelCard", "read_card", "read_configuration", "resolve_model"]

NANO = Path(__file__).parents[1] / "nano"
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


TEXT_FILES = ["*.json", "*.model", "*.txt"]


def resolve_model(model: str, download: bool = False, replaced: tuple[str, ...] = ()) -> Path:
    """Returns the folder of ``nano``, of a path, or of a Hub id in the Hub's cache.

    Args:
        model: ``nano``, a folder, or a Hub id.
        download: downloads missing files from the Hub.
        replaced: transformers that are given as single files, so they are not downloaded.

    Raises:
        ModelError: the folder does not exist, or the model is not in the cache or cannot be downloaded.
    """
    if model == "nano":
        return NANO
    folder = Path(os.path.expanduser(model))  # noqa: PTH111 (Path.expanduser raises for an unknown user)
    if model and folder.is_dir():
        return folder
    if folder.exists() or not HUB_ID.fullmatch(model):
        raise ModelError(
            f"Model '{model}' is not a folder. Give 'nano', a checkpoint folder in diffusers layout, "
            "or a Hub id such as 'Wan-AI/Wan2.1-I2V-14B-480P-Diffusers' ('loraedit models' lists them)."
        )
    known = known_model(model)
    if known is not None and known.single_file is not None:
        raise ModelError(
            f"'{model}' is published as one transformer file. Fetch it with 'hf download {model} {known.single_file}' "
            "and give it as --transformer together with a Wan2.1 I2V model as --model."
        )
    return _from_hub(model, replaced) if download else _from_cache(model)


def _from_cache(model: str) -> Path:
    """Returns a model's folder in the Hub's cache, complete or not."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(model, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError, OSError) as error:
        known = known_model(model)
        size = f" ({known.gigabytes:.0f} GB in bfloat16)" if known else ""
        raise ModelError(
            f"Model '{model}' is not on this machine. Add --download to fetch it from the Hub{size}, or give a folder."
        ) from error


def _from_hub(model: str, replaced: tuple[str, ...]) -> Path:
    """Downloads a model, small files first: a model that cannot be used is refused before its weights are fetched."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(model, allow_patterns=TEXT_FILES))
        card = _read_configuration(folder, {})
        wanted = [f"{name}/*.safetensors" for name in card.components if name not in replaced]
        return Path(snapshot_download(model, allow_patterns=[*TEXT_FILES, *wanted, "prior/*.safetensors"]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise ModelError(
            f"Model '{model}' is not a folder here and could not be fetched from the Hub "
            f"({type(error).__name__}). Check the name and the connection, or give a folder."
        ) from error


def read_card(folder: Path, files: Mapping[str, Path] | None = None) -> ModelCard:
    """Reads and checks a checkpoint's configuration, and the headers of all its weights.

    Args:
        folder: the checkpoint.
        files: single files (``.safetensors``, ``.gguf``) in place of the folders ``transformer``, ``transformer_2``.

    Raises:
        ModelError: the folder is not an image-to-video checkpoint that takes a mask, or is incomplete or damaged.
    """
    card = _read_configuration(folder, files or {})
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


def read_configuration(folder: Path) -> ModelCard:
    """Reads the card of a checkpoint whose weights may be absent.

    Raises:
        ModelError: the folder is not an image-to-video checkpoint that takes a mask.
    """
    return _read_configuration(folder, {})


def _read_configuration(folder: Path, files: Mapping[str, Path]) -> ModelCard:
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
        return record.read_card(folder, index, files)


@contextmanager
def _nonsense_refused(folder: Path, pipeline: str) -> Iterator[None]:
    """Turns an exception that a nonsensical configuration causes into a ModelError of one sentence."""
    try:
        yield
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise ModelError(
            f"The configuration of '{folder}' is not that of a {pipeline} ({type(error).__name__}: {error}). {AGAIN}"
        ) from error
