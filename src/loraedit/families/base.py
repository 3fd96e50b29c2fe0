"""The interface between a model family and the rest of loraedit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from loraedit.diffusion.samples import Sample
from loraedit.families.model_card import ModelCard
from loraedit.masks.packing import pack_shares
from loraedit.settings import LoraTargets, Resources, SamplingSettings
from loraedit.types import OnStep, Pixels

__all__ = ["TIMESTEPS", "Encoded", "EncoderInput", "Expert", "Family", "Fields", "batch", "mostly_shown", "tokens_of"]

Fields = dict[str, Tensor]
"""Some fields of :class:`Encoded` of one sample, by name."""


@dataclass(frozen=True, eq=False)
class EncoderInput:
    """What text and image encoders read for one embedding, which depends on nothing else.

    Attributes:
        prompt: the words; None for pictures alone.
        pictures: frames ``[1, H, W, 3]`` in [-1, 1].
    """

    prompt: str | None
    pictures: tuple[Pixels, ...] = ()


@dataclass(frozen=True)
class Encoded:
    """A sample as the transformer takes it.

    Attributes:
        condition: packed keep mask (1 = keep) and condition latents, float32 ``[m + c, f, h, w]``, in this order even
            if the model takes them in another one. With ``mask="tokens"`` m is 1.
        text: prompt embedding, float32 ``[L, D]``.
        image: image embedding, float32 ``[N, D]``, or None if the model reads no image.
        target: data latents x1, float32 ``[c, f, h, w]``, or None at inference.
        text_2: embedding of the prompt by a second text encoder, float32 ``[D]`` or ``[L, D]``, or None.
        guidance: the guidance scale for a model that reads it as an input, float32 ``[]``; None means 1.
        frame_rate: frames per second for a model that reads them, float32 ``[]``; None means the model's own.
    """

    condition: Tensor
    text: Tensor
    image: Tensor | None = None
    target: Tensor | None = None
    text_2: Tensor | None = None
    guidance: Tensor | None = None
    frame_rate: Tensor | None = None

    def to(self, device: torch.device) -> Encoded:
        """Returns the sample on another device."""
        return Encoded(**{name: value.to(device) for name, value in self.tensors().items()})

    def tensors(self) -> dict[str, Tensor]:
        """Returns the tensors that are not None, by name."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not None}

    def keep(self, latent_channels: int) -> Tensor:
        """Returns the kept share of each latent cell, ``[1, f, h, w]`` in [0, 1]: the mean of the mask channels."""
        return self.condition[: self.condition.shape[0] - latent_channels].mean(0, keepdim=True)


def batch(samples: Sequence[Encoded]) -> Encoded:
    """Stacks samples of one shape along a leading batch axis. A single sample is not copied."""
    rows = [sample.tensors() for sample in samples]
    if len(rows) == 1:
        return Encoded(**{name: value[None] for name, value in rows[0].items()})
    return Encoded(**{name: torch.stack([row[name] for row in rows]) for name in rows[0]})


def tokens_of(card: ModelCard, latent: Sequence[int]) -> int:
    """Returns the number of video tokens for latents of a shape ``f, h, w``."""
    frames, height, width = latent
    patch = card.multiple_px // card.spatial
    return frames * (height // patch) * (width // patch)


SHOWN_SHARE = 0.75
"""Share of a cell's pixels that must show something for the cell to count as mostly shown."""


def mostly_shown(sample: Sample, card: ModelCard) -> Tensor:
    """Returns the latent cells most of whose pixels show something, bool ``[1, f, h, w]``."""
    height, width = (extent // card.spatial for extent in sample.shown.shape[1:])
    return torch.from_numpy(pack_shares(sample.shown, height, width, card.temporal) >= SHOWN_SHARE)


TIMESTEPS = 1000
"""The timestep of pure noise, t = 1."""


@dataclass(frozen=True)
class Expert:
    """One transformer and the noise levels t that it serves: ``low <= t < high`` (or t = 1)."""

    name: str
    low: float
    high: float


class Family(Protocol):
    """A model family at work on one checkpoint. Each method loads what it needs and frees it again.

    Text encoder, image encoder, VAE and transformer are never in memory together, except that a preview during the work
    is decoded beside the transformer. A transformer must be a diffusers ``ModelMixin`` whose repeated blocks are in
    ``ModuleList`` children.

    Attributes:
        card: the checkpoint's model card.
        resources: how models fit into the device's memory.
        splits_tokens: whether several GPUs can each compute a part of a clip's tokens, by diffusers' own plan.
    """

    card: ModelCard
    resources: Resources
    splits_tokens: bool

    @property
    def experts(self) -> tuple[Expert, ...]:
        """Returns the transformers, the one for high noise first."""

    def encoded_shapes(self, latent: tuple[int, int, int]) -> dict[str, tuple[int, ...]]:
        """Returns the largest shapes of a sample with a target, by the names of :class:`Encoded`.

        Args:
            latent: ``f, h, w``.
        """

    def lora_targets(self, which: LoraTargets) -> tuple[str, ...]:
        """Returns the linear layers that a LoRA adapts: their dotted paths, or the ends of these."""

    def encoder_inputs(self, prompt: str, pictures: Sequence[Pixels] = ()) -> list[EncoderInput]:
        """Returns what the encoders read for a sample; their embeddings together have all fields but those of clips.

        Args:
            prompt: the words.
            pictures: the frame for an image encoder and the condition's last frame, as far as they are known.
        """

    def embed(self, inputs: Sequence[EncoderInput], device: torch.device) -> list[Fields]:
        """Encodes texts and pictures to embeddings, float32 on the CPU. Each encoder is loaded once, and freed."""

    def clips(self, sample: Sample) -> list[Pixels]:
        """Returns the clips that a sample takes the latents of."""

    def encode_clips(self, clips: Sequence[Pixels], device: torch.device, on_step: OnStep) -> list[Tensor]:
        """Encodes clips of a valid size and frame count to latents ``[c, f, h, w]``, float32 on the CPU."""

    def assemble(self, sample: Sample, latents: Sequence[Tensor]) -> Fields:
        """Returns condition, target and frame rate of a sample.

        Args:
            sample: the sample.
            latents: those of its :meth:`clips`.
        """

    def shown_cells(self, sample: Sample) -> Tensor:
        """Returns the latent cells whose latents in the condition show something to start from, ``[1, f, h, w]`` bool.

        They are those that are :func:`mostly_shown`, without any cell whose latents the family withholds.
        """

    def decode(self, latents: Tensor, device: torch.device) -> Pixels:
        """Decodes latents ``[c, f, h, w]`` into pixels ``[F, H, W, 3]`` in [-1, 1]."""

    def vae_encode(self, vae: Any, video: Tensor) -> Tensor:
        """Encodes a video ``[1, 3, F, H, W]`` in [-1, 1] into normalised latents ``[1, c, f, h, w]``."""

    def vae_decode(self, vae: Any, latents: Tensor) -> Tensor:
        """Decodes normalised latents ``[1, c, f, h, w]`` into a video ``[1, 3, F, H, W]`` in [-1, 1]."""

    def run_encoder(self, name: str, encoder: Any) -> None:
        """Runs an encoder once as :meth:`embed` does, on a prompt of full length or a picture, for plans to measure.

        Args:
            name: the component, such as ``text_encoder``.
            encoder: the component itself; its weights and the input may be fake tensors.
        """

    def load_transformer(self, expert: Expert, device: torch.device) -> nn.Module:
        """Loads one transformer on the CPU, frozen, in the precision of the device; ``memory.place`` moves it there."""

    def speed_up(self, transformer: nn.Module, device: torch.device) -> None:
        """Lets a transformer compute with kernels made for a device, in place. :meth:`load_transformer` does so."""

    def velocity(self, transformer: nn.Module, latents: Tensor, timestep: Tensor, condition: Encoded) -> Tensor:
        """Predicts the velocity v_theta for noisy latents ``[B, c, f, h, w]``.

        Args:
            timestep: ``[B]``, 1000 t, as schedulers count.
            condition: a :func:`batch` of conditions.
        """

    def scheduler(self, sampling: SamplingSettings, steps: int, shape: Sequence[int], device: torch.device) -> Any:
        """Returns a diffusers scheduler with timesteps set: the checkpoint's own, or the one that the settings name.

        Args:
            sampling: names the solver and the flow shift.
            steps: number of denoising steps, which may differ from those of the settings.
            shape: of the latents, ``[c, f, h, w]``.
            device: where the timesteps are put.
        """

    def portable_lora_name(self, module: str) -> str:
        """Returns the name of an adapted layer in LoRA files for ComfyUI and diffusers.

        Args:
            module: the layer's dotted path in the transformer.
        """
