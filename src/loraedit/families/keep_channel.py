"""What the families share whose condition is one keep channel and the condition's latents: all but Wan.

The keep mask has one value for each latent cell; a cell counts as kept if every pixel of it is, in every frame that it
stands for. Two kinds of model read it:

- *channels* (HunyuanVideo with concatenated latents, HunyuanVideo-1.5): noise, condition and mask are input channels
  side by side. As in those models' own pretraining, the condition is 0 where nothing is shown.
- *tokens* (HunyuanVideo with replaced tokens, LTX): a kept token is the condition itself, at timestep 0. What is
  predicted there means nothing: it does not count in the loss, and the sampler puts kept tokens back.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from loraedit.diffusion.samples import FILL, Sample
from loraedit.families.base import Encoded, Expert
from loraedit.families.encoder_passes import read_picture, read_prompt
from loraedit.families.loading import compute_dtype, load_component, load_part, load_scheduler, loading
from loraedit.families.model_card import ModelCard
from loraedit.masks.packing import pack_keep_mask
from loraedit.runtime.memory import tile
from loraedit.settings import LoraTargets, Resources
from loraedit.types import Mask, OnStep, Pixels

__all__ = ["Fields", "KeepChannelFamily", "shown_where_kept"]

Fields = dict[str, Tensor]
"""Some fields of :class:`Encoded` by name, each of one sample."""


class KeepChannelFamily(ABC):
    """See :class:`loraedit.families.base.Family`."""

    transformer_kind: ClassVar[Any]
    vae_kind: ClassVar[Any]
    linears: ClassVar[Mapping[str, tuple[str, tuple[str, ...]]]]
    """By list of blocks: where the configuration counts them, and the linear layers of one that a LoRA adapts."""

    def __init__(self, card: ModelCard) -> None:
        self.card = card
        self.resources = Resources()
        self.splits_tokens = False  # the plans of diffusers know no timestep for every token, or there are none
        self.config = card.config("transformer")

    @property
    def experts(self) -> tuple[Expert, ...]:
        """One transformer for all noise."""
        return (Expert("transformer", 0.0, 1.0),)

    def lora_targets(self, which: LoraTargets) -> tuple[str, ...]:
        """Every linear of the blocks but their modulation, or those of their attention."""
        return tuple(
            f"{blocks}.{index}.{name}"
            for blocks, (count, names) in self.linears.items()
            for index in range(int(self.config[count]))
            for name in names
            if which == "all" or "attn" in name
        )

    def encoded_shapes(self, latent: tuple[int, int, int]) -> dict[str, tuple[int, ...]]:
        """See :class:`loraedit.families.base.Family`."""
        channels = self.card.latent_channels
        return {"condition": (1 + channels, *latent), "target": (channels, *latent), **self._word_shapes()}

    @abstractmethod
    def _word_shapes(self) -> dict[str, tuple[int, ...]]:
        """Of prompt and image embeddings, at most."""

    # ---- encoding ------------------------------------------------------------------------------------------------

    def encode(self, samples: Sequence[Sample], device: torch.device, on_step: OnStep) -> list[Encoded]:
        """Text and images first, then latents; each encoder is freed before the next loads."""
        total = 2 * len(samples)
        words = self._describe([(sample.prompt, sample.image) for sample in samples], device)
        on_step(len(samples), total)
        encoded = []
        with self._vae(device) as vae, torch.inference_mode():
            for index, sample in enumerate(samples):
                encoded.append(Encoded(**words[index], **self._shown(vae, sample)))
                on_step(len(samples) + index + 1, total)
        return encoded

    def embed_prompt(self, prompt: str, device: torch.device) -> Fields:
        """A prompt without a picture, as the fields of :class:`Encoded` that it decides."""
        fields = self._describe([(prompt, None)], device)[0]
        return {name: value for name, value in fields.items() if name != "image"}

    def run_encoder(self, name: str, encoder: Any) -> None:
        """See :class:`loraedit.families.base.Family`."""
        if name == "image_encoder":
            read_picture(encoder)
        else:
            read_prompt(encoder, self.card.settings.text_tokens)

    @abstractmethod
    def _describe(self, pairs: Sequence[tuple[str, Pixels | None]], device: torch.device) -> list[Fields]:
        """Prompt and image embeddings of (prompt, frame ``[1, H, W, 3]`` or None), on the CPU, float32."""

    def _shown(self, vae: Any, sample: Sample) -> Fields:
        """``condition`` and ``target`` of a sample."""
        # Frame 1 alone, as these models know it: their VAEs' norms would let the other frames shine through.
        condition = self._latents(vae, sample.condition)
        condition[:, :1] = self._latents(vae, sample.condition[:1])
        keep = self._keep(sample.edit_mask)
        target = None if sample.target is None else self._latents(vae, sample.target)
        if self.card.mask == "channels":
            blank = sample.edit_mask & (sample.condition == FILL).all(-1)
            condition = condition * self._cells(blank).amax(0, keepdim=True)
        fields = {"condition": torch.cat([keep, condition])}
        return fields if target is None else {**fields, "target": target}

    def _cells(self, edit_mask: Mask) -> Tensor:
        """The packed keep mask, float32 ``[temporal, f, h, w]``, alike in all cells of a patch."""
        patch = self.card.multiple_px // self.card.spatial
        height, width = (extent // self.card.multiple_px for extent in edit_mask.shape[1:])
        packed = pack_keep_mask(edit_mask, height, width, self.card.temporal)
        return torch.from_numpy(packed.repeat(patch, 2).repeat(patch, 3))

    def _keep(self, edit_mask: Mask) -> Tensor:
        """1 where a cell is kept in all its frames, float32 ``[1, f, h, w]``."""
        return self._cells(edit_mask).amin(0, keepdim=True)

    # ---- latents -------------------------------------------------------------------------------------------------

    def _vae(self, device: torch.device) -> AbstractContextManager[Any]:
        return load_component(self.card, self.vae_kind, "vae", device, torch.float32)

    def _latents(self, vae: Any, pixels: Pixels) -> Tensor:
        """E(V): the posterior's mode, normalised, float32 ``[c, f, h, w]`` on the CPU."""
        video = torch.from_numpy(pixels).permute(3, 0, 1, 2)[None].to(vae.device)
        tile(vae, self.resources, *pixels.shape[1:3])
        with torch.inference_mode():
            latents = self.vae_encode(vae, video)[0].float().cpu()
        return latents.clone()

    def decode(self, latents: Tensor, device: torch.device) -> Pixels:
        """Pixels ``[F, H, W, 3]`` in [-1, 1] of latents ``[c, f, h, w]``."""
        with self._vae(device) as vae, torch.inference_mode():
            tile(vae, self.resources, *(self.card.spatial * side for side in latents.shape[2:]))
            video = self.vae_decode(vae, latents[None].to(device, torch.float32))
            pixels: Pixels = np.asarray(video[0].permute(1, 2, 3, 0).float().cpu())
        return pixels

    def vae_encode(self, vae: Any, video: Tensor) -> Tensor:
        """See :class:`loraedit.families.base.Family`."""
        return self._normalise(vae, vae.encode(video).latent_dist.mode())

    def vae_decode(self, vae: Any, latents: Tensor) -> Tensor:
        """See :class:`loraedit.families.base.Family`."""
        video: Tensor = vae.decode(self._normalise(vae, latents, back=True), return_dict=False)[0]
        return video

    def _normalise(self, vae: Any, latents: Tensor, back: bool = False) -> Tensor:
        """Raw latents ``[1, c, f, h, w]`` as the transformer takes them; or back."""
        scale = float(vae.config.scaling_factor)
        return latents / scale if back else latents * scale

    # ---- the transformer -----------------------------------------------------------------------------------------

    def load_transformer(self, expert: Expert, device: torch.device) -> nn.Module:
        """The transformer, frozen: float32 on a CPU, bfloat16 elsewhere."""
        with loading(self.card):
            transformer = load_part(self.card, self.transformer_kind, expert.name, compute_dtype(device))
        module: nn.Module = transformer.eval().requires_grad_(False)
        return module

    def scheduler(self, steps: int, shape: Sequence[int], device: torch.device) -> Any:  # noqa: ARG002 (see LTX-2)
        """The checkpoint's own scheduler, from pure noise in even steps before its flow shift."""
        scheduler = load_scheduler(self.card)
        scheduler.set_timesteps(sigmas=np.linspace(1.0, 0.0, steps + 1)[:-1], device=device)
        return scheduler

    def portable_lora_name(self, module: str) -> str:
        """``transformer_blocks.3.attn.to_q`` with the prefix that diffusers gives it."""
        return f"transformer.{module}"


def shown_where_kept(latents: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
    """What a model that reads the mask by its tokens is given.

    Args:
        latents: noisy, ``[B, c, f, h, w]``.
        condition: keep channel and latents, ``[B, 1 + c, f, h, w]``.

    Returns:
        keep, bool ``[B, 1, f, h, w]``, and the latents with the condition's where it is True.
    """
    keep = condition[:, :1] == 1
    return keep, torch.where(keep, condition[:, 1:], latents)
