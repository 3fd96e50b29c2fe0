"""Defines the work that all contenders do: the same weights, sample, LoRA layers and thread count."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from diffusers import WanTransformer3DModel
from torch import Tensor, nn

from loraedit.families import open_family
from loraedit.families.base import Encoded, Family
from loraedit.families.card import read_card
from loraedit.families.hub import resolve_model
from loraedit.settings import SamplingSettings, TrainSettings

RANK = 16
LR = 1e-3
CPU = torch.device("cpu")

Steps = Callable[[int, Callable[..., None]], None]
"""Runs the given number of steps, and calls back after each."""


@dataclass(frozen=True)
class Contender:
    """Describes one way to do the work.

    Attributes:
        name: as in the page.
        train: runs training steps on loaded weights.
        sample: runs sampling steps on loaded weights.
        train_model: the transformer of the training steps, for its size in memory.
        sample_model: the transformer of the sampling steps.
    """

    name: str
    train: Steps
    sample: Steps
    train_model: nn.Module
    sample_model: nn.Module


@dataclass(frozen=True)
class Work:
    """Describes what is trained and sampled.

    Attributes:
        family: of the checkpoint.
        sample: encoded before the measurement, so that no contender pays for the encoders.
        training: settings of the training steps.
        sampling: settings of the sampling steps.
    """

    family: Family
    sample: Encoded
    training: TrainSettings
    sampling: SamplingSettings

    def transformer(self, dtype: torch.dtype = torch.float32) -> nn.Module:
        """Loads the checkpoint's transformer with diffusers."""
        folder, name = self.family.card.folder, self.family.experts[0].name
        loaded = WanTransformer3DModel.from_pretrained(folder, subfolder=name, dtype=dtype, use_safetensors=True)
        return loaded.eval().requires_grad_(False)


def make_work(model: str, frames: int, side: int, steps: int) -> Work:
    """Returns the work on a checkpoint, with latents of ``frames`` frames and ``side`` cells per side."""
    card = read_card(resolve_model(model))
    family = open_family(card)
    generator = torch.Generator().manual_seed(0)
    config = family.load_transformer(family.experts[0], CPU).config  # type: ignore[union-attr]

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    channels = int(config.in_channels) - card.latent_channels
    sample = Encoded(
        condition=draw(channels, frames, side, side),
        text=draw(card.settings.text_tokens, int(config.text_dim)),
        target=draw(card.latent_channels, frames, side, side),
    )
    training = TrainSettings(steps=steps, rank=RANK, lr=LR)
    return Work(family, sample, training, SamplingSettings(sampling_steps=steps, guidance=1.0))
