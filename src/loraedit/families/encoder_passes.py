"""Forward passes of encoders on empty input, for plans to measure. Each is one that a family's ``encode`` makes."""

from __future__ import annotations

from typing import Any

import torch

__all__ = ["connect_layers", "read_picture", "read_picture_and_prompt", "read_prompt", "read_prompt_keeping_layers"]


def read_prompt(encoder: Any, length: int) -> None:
    """Runs a text encoder on a prompt of ``length`` tokens, or of as many as it has positions for."""
    most = getattr(encoder.config, "max_position_embeddings", None) or length
    encoder(torch.zeros(1, min(length, most), dtype=torch.long))


def read_picture(encoder: Any) -> None:
    """Runs an image encoder on one picture of its own size."""
    side = encoder.config.image_size
    encoder(torch.empty(1, 3, side, side, dtype=encoder.dtype))


def read_picture_and_prompt(encoder: Any, length: int) -> None:
    """Runs Llava on a picture, whose tokens stand among the ``length`` tokens of the prompt."""
    read_picture(encoder.model.vision_tower)
    picture = encoder.config.vision_config
    tokens = length + (picture.image_size // picture.patch_size) ** 2
    encoder.model.language_model(torch.zeros(1, tokens, dtype=torch.long), output_hidden_states=True)


def read_prompt_keeping_layers(encoder: Any, length: int) -> None:
    """Runs Gemma on a prompt and keeps the output of every layer."""
    encoder.model.language_model(torch.zeros(1, length, dtype=torch.long), output_hidden_states=True)


def connect_layers(connector: Any, length: int) -> None:
    """Runs LTX-2's connector on all layers of a prompt together."""
    width = connector.config.caption_channels * connector.config.text_proj_in_factor
    connector(torch.empty(1, length, width, dtype=connector.dtype), torch.ones(1, length, dtype=torch.long))
