"""Finds the model of a request: its card from small files first, its weights last."""

from __future__ import annotations

from pathlib import Path

from loraedit.errors import ModelError
from loraedit.families.card import ModelCard, read_card, read_configuration
from loraedit.families.hub import download_note, fetch_weights, on_hub, resolve_model
from loraedit.settings import EditSettings
from loraedit.types import Progress

__all__ = ["find_card", "load_card"]


def find_card(settings: EditSettings) -> ModelCard:
    """Reads the model's card from its small files alone; with ``download`` these are fetched.

    Raises:
        ModelError: there is no such model, or it is not one that loraedit can edit with.
    """
    return read_configuration(resolve_model(settings.model, settings.download), _single_files(settings))


def load_card(settings: EditSettings, card: ModelCard, progress: Progress) -> ModelCard:
    """Checks the headers of the model's weights, and downloads what is missing if the user asked for it.

    Args:
        card: the model's, as :func:`find_card` reads it.
        progress: called with the phase "download" before and after a download; the note says what is fetched.

    Raises:
        ModelError: the weights are incomplete or damaged, or cannot be fetched.
    """
    files = _single_files(settings)
    try:
        return read_card(card.folder, files)
    except ModelError:
        if not (settings.download and on_hub(settings.model)):
            raise
    progress("download", 0, 1, download_note(settings.model))
    folder = fetch_weights(settings.model, card)
    progress("download", 1, 1, "")
    return read_card(folder, files)


def _single_files(settings: EditSettings) -> dict[str, Path]:
    given = {"transformer": settings.transformer, "transformer_2": settings.transformer_2}
    return {name: Path(path) for name, path in given.items() if path is not None}
