"""What an encoder is given, by its class: one prompt, or one picture, of tensors that may hold nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from loraedit.families.model_card import ModelCard

__all__ = ["encode_once", "encoders"]


def encoders(card: ModelCard) -> list[str]:
    """The components that read a prompt."""
    others = {*card.experts, "vae", "image_encoder"}
    return [name for name in card.components if name not in others]


def encode_once(encoder: Any, card: ModelCard) -> None:
    """A forward pass as a family makes one."""
    _PASSES.get(type(encoder).__name__, _read)(encoder, card.settings.text_tokens)


def _read(encoder: Any, length: int) -> None:
    """A prompt that fills its places."""
    most = getattr(encoder.config, "max_position_embeddings", None) or length
    encoder(torch.zeros(1, min(length, most), dtype=torch.long))


def _look(encoder: Any, _length: int) -> None:
    side = encoder.config.image_size
    encoder(torch.empty(1, 3, side, side, dtype=encoder.dtype))


def _look_and_read(encoder: Any, length: int) -> None:
    """Llava: a picture, whose tokens stand among those of the prompt."""
    seen = encoder.config.vision_config
    _look(encoder.model.vision_tower, length)
    tokens = length + (seen.image_size // seen.patch_size) ** 2
    encoder.model.language_model(torch.zeros(1, tokens, dtype=torch.long), output_hidden_states=True)


def _read_all_layers(encoder: Any, length: int) -> None:
    """Gemma: every layer's output is kept."""
    encoder.model.language_model(torch.zeros(1, length, dtype=torch.long), output_hidden_states=True)


def _connect(encoder: Any, length: int) -> None:
    """LTX-2: all layers of a prompt together."""
    width = encoder.config.caption_channels * encoder.config.text_proj_in_factor
    encoder(torch.empty(1, length, width, dtype=encoder.dtype), torch.ones(1, length, dtype=torch.long))


_PASSES: dict[str, Callable[[Any, int], None]] = {
    "CLIPVisionModel": _look,
    "CLIPVisionModelWithProjection": _look,
    "SiglipVisionModel": _look,
    "LlavaForConditionalGeneration": _look_and_read,
    "Gemma3ForConditionalGeneration": _read_all_layers,
    "LTX2TextConnectors": _connect,
}
"""By class; all others read."""
