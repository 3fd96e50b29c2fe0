"""What the workflows ask of a model family."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from loraedit.diffusion.samples import Sample
from loraedit.families.model_card import ModelCard
from loraedit.settings import LoraTargets, Resources
from loraedit.types import OnStep, Pixels

__all__ = ["TIMESTEPS", "Encoded", "Expert", "Family", "batch", "tokens_of"]


@dataclass(frozen=True)
class Encoded:
    """A sample as the transformer takes it.

    Attributes:
        condition: packed keep mask and condition latents, float32 ``[m + c, f, h, w]``, in this order whatever
            order the model takes them in; with ``mask="tokens"`` m is 1.
        text: prompt embedding, float32 ``[L, D]``.
        image: image embedding, float32 ``[N, D]``, or None if the model reads none.
        target: data latents x1, float32 ``[c, f, h, w]``, or None at inference.
        text_2: what a second text encoder makes of the prompt, float32 ``[D]`` or ``[L, D]``, or None.
        guidance: the guidance scale for a model that reads it as an input, float32 ``[]``; None means 1.
    """

    condition: Tensor
    text: Tensor
    image: Tensor | None = None
    target: Tensor | None = None
    text_2: Tensor | None = None
    guidance: Tensor | None = None

    def to(self, device: torch.device) -> Encoded:
        """The same on another device."""
        return Encoded(**{name: value.to(device) for name, value in self.tensors().items()})

    def tensors(self) -> dict[str, Tensor]:
        """The tensors that are there, by name."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not None}

    def keep(self, latent_channels: int) -> Tensor:
        """How much of each latent cell is kept, ``[1, f, h, w]`` in [0, 1]: the mask channels averaged over time."""
        return self.condition[: self.condition.shape[0] - latent_channels].mean(0, keepdim=True)


def batch(samples: Sequence[Encoded]) -> Encoded:
    """Samples of one shape as one, each tensor with a leading batch axis; a single one is not copied."""
    rows = [sample.tensors() for sample in samples]
    if len(rows) == 1:
        return Encoded(**{name: value[None] for name, value in rows[0].items()})
    return Encoded(**{name: torch.stack([row[name] for row in rows]) for name in rows[0]})


def tokens_of(card: ModelCard, latent: Sequence[int]) -> int:
    """The length of the sequence that latents of a shape ``f, h, w`` are to a transformer, without its words."""
    frames, height, width = latent
    patch = card.multiple_px // card.spatial
    return frames * (height // patch) * (width // patch)


TIMESTEPS = 1000
"""Timesteps of pure noise: t = 1."""


@dataclass(frozen=True)
class Expert:
    """One transformer and the noise levels t that it serves: ``low <= t < high`` (or t = 1)."""

    name: str
    low: float
    high: float


class Family(Protocol):
    """A loaded family; each method loads what it needs and frees it again.

    Text encoder, image encoder, VAE and transformer are never in memory together.

    Attributes:
        card: the checkpoint's.
        resources: how to fit into the device's memory.
        splits_tokens: whether several cards can each compute a part of a clip's tokens, by diffusers' own plan.
    """

    card: ModelCard
    resources: Resources
    splits_tokens: bool

    @property
    def experts(self) -> tuple[Expert, ...]:
        """The transformers, the one for high noise first."""

    def encoded_shapes(self, latent: tuple[int, int, int]) -> dict[str, tuple[int, ...]]:
        """What a sample with a target is encoded to at most: shapes by the names of :class:`Encoded`.

        Args:
            latent: ``f, h, w``.
        """

    def lora_targets(self, which: LoraTargets) -> tuple[str, ...]:
        """The linear layers that a LoRA adapts: their dotted paths, or the ends of these."""

    def encode(self, samples: Sequence[Sample], device: torch.device, on_step: OnStep) -> list[Encoded]:
        """Encode samples whose frames already have the working size and a valid count."""

    def embed_prompt(self, prompt: str, device: torch.device) -> dict[str, Tensor]:
        """A prompt without a picture, as the fields of :class:`Encoded` that it decides."""

    def decode(self, latents: Tensor, device: torch.device) -> Pixels:
        """Pixels ``[F, H, W, 3]`` in [-1, 1] of latents ``[c, f, h, w]``."""

    def vae_encode(self, vae: Any, video: Tensor) -> Tensor:
        """Normalised latents ``[1, c, f, h, w]`` of a video ``[1, 3, F, H, W]`` in [-1, 1]."""

    def vae_decode(self, vae: Any, latents: Tensor) -> Tensor:
        """A video ``[1, 3, F, H, W]`` in [-1, 1] of normalised latents ``[1, c, f, h, w]``."""

    def run_encoder(self, name: str, encoder: Any) -> None:
        """Runs an encoder once as :meth:`encode` does, on a prompt of full length or a picture, for plans to measure.

        Args:
            name: the component, such as ``text_encoder``.
            encoder: the component itself; its weights and the input may be fake tensors.
        """

    def load_transformer(self, expert: Expert, device: torch.device) -> nn.Module:
        """One transformer, frozen, in the precision that suits the device, to which ``memory.place`` brings it."""

    def velocity(self, transformer: nn.Module, latents: Tensor, timestep: Tensor, condition: Encoded) -> Tensor:
        """v_theta of noisy latents ``[B, c, f, h, w]``.

        Args:
            timestep: ``[B]``, 1000 t, as schedulers count.
            condition: a :func:`batch` of conditions.
        """

    def scheduler(self, steps: int, shape: Sequence[int], device: torch.device) -> Any:
        """The checkpoint's own diffusers scheduler, its timesteps set, for latents of a shape ``[c, f, h, w]``."""

    def portable_lora_name(self, module: str) -> str:
        """The name of an adapted layer as ComfyUI and diffusers read it, of a dotted path inside the transformer."""
