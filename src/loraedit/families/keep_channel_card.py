"""Reads the model cards of the families in :mod:`loraedit.families.keep_channel`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from loraedit.errors import ModelError
from loraedit.families.folder import lora_rank, read_card_file, read_json
from loraedit.families.model_card import CardFile, ModelCard, prior_file
from loraedit.families.record import CardReader

__all__ = ["build_card", "read_configs", "without_single_files"]

UNLIMITED_POSITIONS = 4096
"""More positions than any clip has: these models compute position codes for as many as they need."""


def without_single_files(read: Callable[[Path], ModelCard]) -> CardReader:
    """Returns the card reader of a family whose transformers cannot be given as single files."""

    def read_folder(folder: Path, _index: dict[str, Any], files: Mapping[str, Path]) -> ModelCard:
        if files:
            raise ModelError(
                f"A transformer file can replace the transformer of a Wan model only, and '{folder}' is another model. "
                "Leave the file out."
            )
        return read(folder)

    return read_folder


def read_configs(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the configurations of transformer and VAE, and checks that the scheduler's can be read."""
    read_json(folder, "scheduler/scheduler_config.json")
    return read_json(folder, "transformer/config.json"), read_json(folder, "vae/config.json")


def build_card(
    folder: Path,
    *,
    spatial: int,
    temporal: int,
    patch: int,
    encoders: tuple[str, ...],
    settings: CardFile,
    **values: Any,
) -> ModelCard:
    """Builds a model card from what differs between these families.

    Args:
        patch: latent cells of a token, per side.
        encoders: components that read prompts or pictures.
        settings: the settings of a checkpoint without ``loraedit.json``.
        values: further fields of the card.
    """
    return ModelCard(
        folder=folder,
        spatial=spatial,
        temporal=temporal,
        multiple_px=spatial * patch,
        frame_step=temporal,
        experts=("transformer",),
        boundary=0.0,
        components=("transformer", "vae", *encoders),
        image_frames=1 if "image_encoder" in encoders else 0,
        max_positions=UNLIMITED_POSITIONS,
        settings=read_card_file(folder, settings),
        prior_rank=lora_rank(prior_file(folder, "transformer")),
        **values,
    )
