"""Finds the model of a request: its card from small files first, its weights last."""

from __future__ import annotations

from pathlib import Path

from loraedit.errors import ModelError
from loraedit.families.card import ModelCard, read_card, read_configuration
from loraedit.families.hub import download_note, fetch_weights, on_hub, resolve_model
from loraedit.settings import EditSettings
from loraedit.types import Progress

__all__ = ["download_weights", "find_card", "local_weights", "single_files"]


def find_card(settings: EditSettings) -> ModelCard:
    """Reads the model's card from its small files alone; with ``download`` these are fetched.

    Raises:
        ModelError: there is no such model, or it is not one that loraedit can edit with.
    """
    return read_configuration(resolve_model(settings.model, settings.download), single_files(settings))


def local_weights(settings: EditSettings, card: ModelCard) -> ModelCard | None:
    """Checks the headers of the model's weights on this machine; returns None if they are to be downloaded.

    Args:
        card: the model's, as :func:`find_card` reads it.

    Raises:
        ModelError: the weights are incomplete or damaged, and the user allows no download.
    """
    try:
        return read_card(card.folder, single_files(settings))
    except ModelError:
        if settings.download and on_hub(settings.model):
            return None
        raise


def download_weights(settings: EditSettings, card: ModelCard, progress: Progress) -> ModelCard:
    """Downloads what is missing of the model's weights, and checks their headers.

    Args:
        card: the model's, as :func:`find_card` reads it.
        progress: called with the phase "download" before and after the download; the note says what is fetched.

    Raises:
        ModelError: the weights cannot be fetched, or are damaged.
    """
    progress("download", 0, 1, download_note(settings.model))
    folder = fetch_weights(settings.model, card)
    progress("download", 1, 1, "")
    return read_card(folder, single_files(settings))


def single_files(settings: EditSettings) -> dict[str, Path]:
    """Returns the files that the settings name in place of transformers, by expert."""
    given = {"transformer": settings.transformer, "transformer_2": settings.transformer_2}
    return {name: Path(path) for name, path in given.items() if path is not None}
