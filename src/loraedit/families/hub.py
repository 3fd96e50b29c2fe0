"""Finds a model on this machine or on the Hub; its small files and its weights are fetched separately."""

from __future__ import annotations

import os
import re
from pathlib import Path

from loraedit.errors import ModelError
from loraedit.families.card import NANO, ModelCard
from loraedit.families.known import known_model
from loraedit.storage.hub import fetch_snapshot, find_snapshot

__all__ = ["download_note", "fetch_weights", "on_hub", "resolve_model"]

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
SMALL_FILES = ("*.json", "*.model", "*.txt", "prior/*.safetensors")


def resolve_model(model: str, download: bool = False) -> Path:
    """Finds the folder of ``nano``, of a path, or of a Hub id in the Hub's cache.

    Args:
        download: fetch the small files of a Hub id; :func:`fetch_weights` fetches the rest.

    Raises:
        ModelError: there is no such folder, it is not in the cache, or it cannot be fetched.
    """
    if model == "nano":
        return NANO
    folder = _folder(model)
    if model and folder.is_dir():
        return folder
    if Path(model).suffix in (".safetensors", ".gguf"):
        raise ModelError(
            f"Model '{model}' is one file. Give it as --transformer, and as --model a checkpoint with its VAE and text "
            "encoder, such as 'Wan-AI/Wan2.1-I2V-14B-480P-Diffusers'."
        )
    if not on_hub(model):
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
    return fetch_snapshot(model, SMALL_FILES) if download else _cached(model)


def on_hub(model: str) -> bool:
    """True if the text is a Hub id, not ``nano`` or something on this machine."""
    return HUB_ID.fullmatch(model) is not None and not _folder(model).exists()


def fetch_weights(model: str, card: ModelCard) -> Path:
    """Downloads the weights of a Hub id that are not in the cache, and returns the folder.

    Args:
        card: the model's; transformers that it reads from single files are not fetched.

    Raises:
        ModelError: they cannot be fetched.
    """
    wanted = [f"{name}/*.safetensors" for name in card.components if name not in card.files]
    return fetch_snapshot(model, [*SMALL_FILES, *wanted])


def download_note(model: str) -> str:
    """Describes a download: the model, and its size where it is known."""
    known = known_model(model)
    return f"{model}, {known.gigabytes:.0f} GB" if known else model


def _folder(model: str) -> Path:
    return Path(os.path.expanduser(model))  # noqa: PTH111 (Path.expanduser raises for an unknown user)


def _cached(model: str) -> Path:
    """Returns the model's folder in the Hub's cache, complete or not."""
    found = find_snapshot(model)
    if found is None:
        known = known_model(model)
        size = f" ({known.gigabytes:.0f} GB in bfloat16)" if known else ""
        raise ModelError(
            f"Model '{model}' is not on this machine. Add --download to fetch it from the Hub{size}, or give a folder."
        )
    return found
