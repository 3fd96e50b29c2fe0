"""The base of all families but Wan: their condition is one keep channel and the condition's latents.

The keep mask has one value for each latent cell. A cell is kept if all its pixels are kept in all its frames. Models
read the mask in one of two ways:

- *channels* (HunyuanVideo with concatenated latents, HunyuanVideo-1.5): noise, condition and mask are input channels
  side by side. As in the pretraining of these models, the condition is 0 where nothing is shown. A cell is shown if
  some frame shows all its pixels.
- *tokens* (HunyuanVideo with replaced tokens, LTX): a kept token is the condition itself, at timestep 0. The
  prediction there is meaningless, so it has no weight in the loss, and the sampler restores kept tokens.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from loraedit.diffusion.samples import Sample
from loraedit.families.base import Expert, Fields
from loraedit.families.encoder_passes import read_picture, read_prompt
from loraedit.families.loading import load_transformer, load_vae
from loraedit.families.model_card import ModelCard
from loraedit.families.schedulers import open_scheduler
from loraedit.families.vae_codec import VaeCodec
from loraedit.masks.packing import pack_keep_mask
from loraedit.settings import LoraTargets, Resources, SamplingSettings
from loraedit.types import Mask, Pixels

__all__ = ["KeepChannelFamily", "shown_where_kept"]


class KeepChannelFamily(VaeCodec):
    """See :class:`loraedit.families.base.Family`."""

    transformer_kind: ClassVar[Any]
    vae_kind: ClassVar[Any]
    linears: ClassVar[Mapping[str, tuple[str, tuple[str, ...]]]]
    """By list of blocks: the configuration's count of them, and the linear layers of a block that a LoRA adapts."""

    def __init__(self, card: ModelCard) -> None:
        self.card = card
        self.resources = Resources()
        self.splits_tokens = False  # diffusers has no plan with a timestep per token, or no plan at all
        self.config = card.config("transformer")

    @property
    def experts(self) -> tuple[Expert, ...]:
        """Returns one transformer for all noise levels."""
        return (Expert("transformer", 0.0, 1.0),)

    def lora_targets(self, which: LoraTargets) -> tuple[str, ...]:
        """Returns the linear layers of the blocks without their modulation, or those of their attention."""
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
        return {"condition": (1 + channels, *latent), "target": (channels, *latent), **self._embedding_shapes()}

    @abstractmethod
    def _embedding_shapes(self) -> dict[str, tuple[int, ...]]:
        """Returns the largest shapes of prompt and image embeddings, by the names of :class:`Encoded`."""

    # ---- encoding ------------------------------------------------------------------------------------------------

    def clips(self, sample: Sample) -> list[Pixels]:
        """Returns the condition, its first frame, and in training the target.

        Frame 1 is encoded alone, as in these models' pretraining: the norms of their VAEs would mix in other frames.
        """
        condition, *target = super().clips(sample)
        return [condition, sample.condition[:1], *target]

    def assemble(self, sample: Sample, latents: Sequence[Tensor]) -> Fields:
        """Returns condition, target and frame rate."""
        whole, first, *target = latents
        condition = torch.cat([first, whole[:, 1:]], 1)
        if self.card.mask == "channels":
            condition = condition * self._visible(sample)
        fields = {"condition": torch.cat([self._keep(sample.edit_mask), condition])}
        if target:
            fields["target"] = target[0]
        if sample.frame_rate is not None:
            fields["frame_rate"] = torch.tensor(sample.frame_rate)
        return fields

    def run_encoder(self, name: str, encoder: Any) -> None:
        """See :class:`loraedit.families.base.Family`."""
        if name == "image_encoder":
            read_picture(encoder)
        else:
            read_prompt(encoder, self.card.settings.text_tokens)

    def shown_cells(self, sample: Sample) -> Tensor:
        """Returns the mostly shown cells, without those whose latents are 0, bool ``[1, f, h, w]``."""
        cells = super().shown_cells(sample)
        return cells & self._visible(sample) if self.card.mask == "channels" else cells

    def _visible(self, sample: Sample) -> Tensor:
        """Returns the cells that some frame shows completely, bool ``[1, f, h, w]``."""
        return self._cells(~sample.shown).amax(0, keepdim=True) == 1

    def _cells(self, edit_mask: Mask) -> Tensor:
        """Returns the packed keep mask, float32 ``[temporal, f, h, w]``, equal in all cells of a patch."""
        patch = self.card.multiple_px // self.card.spatial
        height, width = (extent // self.card.multiple_px for extent in edit_mask.shape[1:])
        packed = pack_keep_mask(edit_mask, height, width, self.card.temporal)
        return torch.from_numpy(packed.repeat(patch, 2).repeat(patch, 3))

    def _keep(self, edit_mask: Mask) -> Tensor:
        """Returns 1 where a cell is kept in all its frames, float32 ``[1, f, h, w]``."""
        return self._cells(edit_mask).amin(0, keepdim=True)

    # ---- latents -------------------------------------------------------------------------------------------------

    def _vae(self, device: torch.device) -> AbstractContextManager[Any]:
        return load_vae(self.card, self.vae_kind, device)

    def vae_encode(self, vae: Any, video: Tensor) -> Tensor:
        """See :class:`loraedit.families.base.Family`."""
        return self._normalise(vae, vae.encode(video).latent_dist.mode())

    def vae_decode(self, vae: Any, latents: Tensor) -> Tensor:
        """See :class:`loraedit.families.base.Family`."""
        video: Tensor = vae.decode(self._normalise(vae, latents, back=True), return_dict=False)[0]
        return video

    def _normalise(self, vae: Any, latents: Tensor, back: bool = False) -> Tensor:
        """Normalises the VAE's latents ``[1, c, f, h, w]`` for the transformer; ``back`` reverses this."""
        scale = float(vae.config.scaling_factor)
        return latents / scale if back else latents * scale

    # ---- the transformer -----------------------------------------------------------------------------------------

    def load_transformer(self, expert: Expert, device: torch.device) -> nn.Module:
        """Loads the transformer, frozen: float32 on a CPU, bfloat16 elsewhere, unless its weights are quantised."""
        return load_transformer(self.card, self.transformer_kind, expert.name, device, self.resources)

    def speed_up(self, transformer: nn.Module, device: torch.device) -> None:
        """See :class:`loraedit.families.base.Family`. There are no kernels for this family."""

    def scheduler(
        self,
        sampling: SamplingSettings,
        steps: int,
        shape: Sequence[int],  # noqa: ARG002 (see LTX-2)
        device: torch.device,
    ) -> Any:
        """Returns the checkpoint's own scheduler or the one that the settings name: even steps, then the flow shift."""
        return open_scheduler(self.card, sampling, steps, device)

    def portable_lora_name(self, module: str) -> str:
        """Returns ``transformer_blocks.3.attn.to_q`` with the prefix of diffusers."""
        return f"transformer.{module}"


def shown_where_kept(latents: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
    """Puts the condition into the kept cells of noisy latents, for models that read the mask by tokens.

    Args:
        latents: noisy, ``[B, c, f, h, w]``.
        condition: keep channel and latents, ``[B, 1 + c, f, h, w]``.

    Returns:
        The keep mask, bool ``[B, 1, f, h, w]``, and the latents with the condition where it is True.
    """
    keep = condition[:, :1] == 1
    return keep, torch.where(keep, condition[:, 1:], latents)
