"""Pixels to latents and back, for every family whose VAE is loaded alone."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from loraedit.diffusion.samples import Sample
from loraedit.families.base import mostly_shown
from loraedit.families.model_card import ModelCard
from loraedit.runtime.memory import tile
from loraedit.settings import Resources
from loraedit.types import OnStep, Pixels

__all__ = ["VaeCodec"]


class VaeCodec(ABC):
    """Encodes and decodes clips. A family provides :meth:`_vae`, :meth:`vae_encode` and :meth:`vae_decode`."""

    card: ModelCard
    resources: Resources

    @abstractmethod
    def _vae(self, device: torch.device) -> AbstractContextManager[Any]:
        """Provides the VAE in float32, and frees it at the end."""

    @abstractmethod
    def vae_encode(self, vae: Any, video: Tensor) -> Tensor:
        """See :class:`loraedit.families.base.Family`."""

    @abstractmethod
    def vae_decode(self, vae: Any, latents: Tensor) -> Tensor:
        """See :class:`loraedit.families.base.Family`."""

    def clips(self, sample: Sample) -> list[Pixels]:
        """Returns the condition, and in training the target."""
        return [sample.condition] if sample.target is None else [sample.condition, sample.target]

    def encode_clips(self, clips: Sequence[Pixels], device: torch.device, on_step: OnStep) -> list[Tensor]:
        """Encodes clips to latents, float32 ``[c, f, h, w]`` on the CPU."""
        latents = []
        with self._vae(device) as vae:
            for done, clip in enumerate(clips, 1):
                latents.append(self._latents(vae, clip))
                on_step(done, len(clips))
        return latents

    def _latents(self, vae: Any, pixels: Pixels) -> Tensor:
        """Returns the normalised mode of the posterior, float32 ``[c, f, h, w]`` on the CPU."""
        video = torch.from_numpy(pixels).permute(3, 0, 1, 2)[None].to(vae.device)
        tile(vae, self.resources, *pixels.shape[1:3])
        with torch.inference_mode():
            latents = self.vae_encode(vae, video)[0].float().cpu()
        return latents.clone()

    def shown_cells(self, sample: Sample) -> Tensor:
        """Returns the latent cells that are mostly shown, bool ``[1, f, h, w]``: no cell's latents are withheld."""
        return mostly_shown(sample, self.card)

    def decode(self, latents: Tensor, device: torch.device) -> Pixels:
        """Decodes latents ``[c, f, h, w]`` into pixels ``[F, H, W, 3]`` in [-1, 1]."""
        with self._vae(device) as vae, torch.inference_mode():
            tile(vae, self.resources, *(self.card.spatial * side for side in latents.shape[2:]))
            video = self.vae_decode(vae, latents[None].to(device, torch.float32))
            pixels: Pixels = video[0].permute(1, 2, 3, 0).float().cpu().numpy()
        return pixels
