"""The work that all contenders do: the same weights, the same sample, the same LoRA layers, one thread count."""

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
"""Carries out so many steps, and calls back after each of them."""


@dataclass(frozen=True)
class Contender:
    """One way to do the work.

    Attributes:
        name: as the page has it.
        train, sample: so many steps, from loaded weights on.
        model: the transformer that the steps use, for its size in memory.
    """

    name: str
    train: Steps
    sample: Steps
    train_model: nn.Module
    sample_model: nn.Module


@dataclass(frozen=True)
class Work:
    """What is trained and sampled.

    Attributes:
        family: of the checkpoint.
        sample: encoded already, so that no contender pays for the encoders.
        training, sampling: what the steps are.
    """

    family: Family
    sample: Encoded
    training: TrainSettings
    sampling: SamplingSettings

    def transformer(self, dtype: torch.dtype = torch.float32) -> nn.Module:
        """The checkpoint's transformer as diffusers loads it."""
        folder, name = self.family.card.folder, self.family.experts[0].name
        loaded = WanTransformer3DModel.from_pretrained(folder, subfolder=name, dtype=dtype, use_safetensors=True)
        return loaded.eval().requires_grad_(False)


def make_work(model: str, frames: int, side: int, steps: int) -> Work:
    """The work on a checkpoint with latents of so many frames and cells a side."""
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
