"""The Wan family: Wan2.1 I2V and FLF2V, Fun-InP, SkyReels-V2 I2V, Wan2.2 A14B (two experts) and TI2V-5B.

The transformer's input is ``noise c | keep mask m | condition c`` on the channel axis. TI2V-5B takes only ``c``
channels: kept tokens hold the clean condition at timestep 0, all others noise. Loading and the encoding of prompts and
images are diffusers' own. nano is an ordinary checkpoint of this family.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import diffusers
import numpy as np
import torch
from diffusers import AutoencoderKLWan
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from loraedit.diffusion.samples import Sample
from loraedit.families.base import Encoded, EncoderInput, Expert, Fields
from loraedit.families.encoder_passes import read_picture, read_prompt
from loraedit.families.loading import free, load_pipeline, load_scheduler, load_transformer, load_vae
from loraedit.families.model_card import ModelCard
from loraedit.families.schedulers import is_own, open_scheduler
from loraedit.families.vae_codec import VaeCodec
from loraedit.families.wan.cpu import cpu_kernels_apply, use_cpu_kernels
from loraedit.families.wan.tensors import WAN_LINEARS, native_name, tensor_name
from loraedit.masks.packing import pack_keep_mask, pack_token_mask
from loraedit.runtime.devices import computed_in
from loraedit.settings import LoraTargets, Resources, SamplingSettings
from loraedit.types import Mask, Pixels

__all__ = ["WanFamily"]

TRANSFORMERS = {
    "WanImageToVideoPipeline": diffusers.WanTransformer3DModel,
    "SkyReelsV2ImageToVideoPipeline": diffusers.SkyReelsV2Transformer3DModel,
}
"""Transformer classes by pipeline class."""

PREFIX = "diffusion_model."


class WanFamily(VaeCodec):
    """See :class:`loraedit.families.base.Family`."""

    def __init__(self, card: ModelCard) -> None:
        self.card = card
        self.resources = Resources()
        self.splits_tokens = TRANSFORMERS[card.pipeline]._cp_plan is not None

    @property
    def experts(self) -> tuple[Expert, ...]:
        """Returns one transformer for all noise levels, or two that meet at the boundary."""
        if len(self.card.experts) == 1:
            return (Expert(self.card.experts[0], 0.0, 1.0),)
        high, low = self.card.experts
        return (Expert(high, self.card.boundary, 1.0), Expert(low, 0.0, self.card.boundary))

    def encoded_shapes(self, latent: tuple[int, int, int]) -> dict[str, tuple[int, ...]]:
        """See :class:`loraedit.families.base.Family`."""
        config, mask = self.card.config(self.experts[0].name), self.card.temporal if self.card.mask == "channels" else 1
        shapes: dict[str, tuple[int, ...]] = {
            "condition": (mask + self.card.latent_channels, *latent),
            "text": (self.card.settings.text_tokens, config["text_dim"]),
            "target": (self.card.latent_channels, *latent),
        }
        if self.card.image_frames:
            patch = self.card.config("image_encoder")["patch_size"]
            patches = (self._image_side // patch) ** 2 + 1  # and one token for the whole picture
            shapes["image"] = (self.card.image_frames * patches, config["image_dim"])
        return shapes

    def lora_targets(self, which: LoraTargets) -> tuple[str, ...]:
        """Returns the linear layers of the blocks or their attention, without image key and value projections."""
        return tuple(name for name in WAN_LINEARS if which == "all" or name.startswith("attn"))

    # ---- encoding ------------------------------------------------------------------------------------------------

    def encoder_inputs(self, prompt: str, pictures: Sequence[Pixels] = ()) -> list[EncoderInput]:
        """Returns the prompt, and the pictures apart. A first-last-frame model reads the condition's last frame too."""
        seen = tuple(pictures[: self.card.image_frames])
        known = bool(seen) and len(seen) == self.card.image_frames
        return [EncoderInput(prompt), *([EncoderInput(None, seen)] if known else [])]

    def embed(self, inputs: Sequence[EncoderInput], device: torch.device) -> list[Fields]:
        """Encodes texts first, then pictures; each encoder is freed before the next loads."""
        texts = iter(self._texts([each.prompt for each in inputs if each.prompt is not None], device))
        images = iter(self._images([each.pictures for each in inputs if each.prompt is None], device))
        return [{"image": next(images)} if each.prompt is None else {"text": next(texts)} for each in inputs]

    def assemble(self, sample: Sample, latents: Sequence[Tensor]) -> Fields:
        """Returns condition and target."""
        condition, *target = latents
        packed = torch.from_numpy(self._packed(sample.edit_mask, *condition.shape[2:]))
        return {"condition": torch.cat([packed, condition]), **({"target": target[0]} if target else {})}

    def _texts(self, prompts: Sequence[str], device: torch.device) -> list[Tensor]:
        """Returns an embedding for each prompt, ``[L, D]``, zero-padded to the length in the model card.

        Each is encoded alone, so that it does not depend on the others.
        """
        if not prompts:
            return []
        pipeline, embeddings = self._pipeline("tokenizer", "text_encoder", device=device), []
        length = self.card.settings.text_tokens
        with torch.inference_mode():
            for prompt in prompts:
                hidden, _ = pipeline.encode_prompt(
                    prompt, do_classifier_free_guidance=False, max_sequence_length=length
                )
                embeddings.append(hidden[0].float().cpu().clone())
        del pipeline
        free()
        return embeddings

    def _packed(self, edit_mask: Mask, height: int, width: int) -> NDArray[np.float32]:
        """Packs the mask as the model reads it: 4 channels per latent frame, or one that is constant in each token."""
        if self.card.mask == "channels":
            return pack_keep_mask(edit_mask, height, width, self.card.temporal)
        return pack_token_mask(edit_mask, height, width, self.card.temporal, self._patch)

    @property
    def _patch(self) -> int:
        """Returns the latent cells of a token, per side."""
        return self.card.multiple_px // self.card.spatial

    @property
    def _image_side(self) -> int:
        """Returns the side of the square that the image encoder sees, in pixels."""
        return int(self.card.config("image_encoder")["image_size"])

    def _images(self, pictures: Sequence[Sequence[Pixels]], device: torch.device) -> list[Tensor]:
        """Returns an embedding ``[N, D]`` for each list of frames; those of several frames are concatenated."""
        if not pictures:
            return []
        pipeline, side = self._pipeline("image_encoder", "image_processor", device=device), self._image_side
        pipeline.image_processor.do_resize = pipeline.image_processor.do_center_crop = False
        embeddings = []
        with torch.inference_mode():
            for frames in pictures:
                images = [_squashed(frame, side) for frame in frames]
                embeddings.append(pipeline.encode_image(images, device).flatten(0, 1).float().cpu().clone())
        del pipeline
        free()
        return embeddings

    def run_encoder(self, name: str, encoder: Any) -> None:
        """See :class:`loraedit.families.base.Family`."""
        if name == "image_encoder":
            read_picture(encoder)
        else:
            read_prompt(encoder, self.card.settings.text_tokens)

    def _pipeline(self, *wanted: str, device: torch.device) -> Any:
        """Loads diffusers' own pipeline with only these components, on the device."""
        kind = getattr(diffusers, self.card.pipeline)
        names = ["tokenizer", "text_encoder", "vae", "scheduler", "transformer", "image_encoder", "image_processor"]
        if kind is diffusers.WanImageToVideoPipeline:
            names.append("transformer_2")
        absent = [name for name in names if name not in wanted]
        return load_pipeline(self.card, kind, absent, device, self.resources)

    # ---- latents -------------------------------------------------------------------------------------------------

    def _vae(self, device: torch.device) -> AbstractContextManager[Any]:
        """Provides the VAE in float32, as diffusers keeps it, and frees it at the end."""
        return load_vae(self.card, AutoencoderKLWan, device)

    def vae_encode(self, vae: Any, video: Tensor) -> Tensor:
        """See :class:`loraedit.families.base.Family`."""
        latents = vae.encode(video).latent_dist.mode()
        mean, inverse_std = _statistics(vae, latents)
        normalised: Tensor = (latents - mean) * inverse_std
        return normalised

    def vae_decode(self, vae: Any, latents: Tensor) -> Tensor:
        """See :class:`loraedit.families.base.Family`."""
        mean, inverse_std = _statistics(vae, latents)
        video: Tensor = vae.decode(latents / inverse_std + mean, return_dict=False)[0]
        return video

    # ---- the transformer -----------------------------------------------------------------------------------------

    def load_transformer(self, expert: Expert, device: torch.device) -> nn.Module:
        """Loads one transformer, frozen: float32 on a CPU, bfloat16 elsewhere, unless its weights are quantised."""
        kind = TRANSFORMERS[self.card.pipeline]
        module = load_transformer(self.card, kind, expert.name, device, self.resources, tensor_name)
        self.speed_up(module, device)
        return module

    def speed_up(self, transformer: nn.Module, device: torch.device) -> None:
        """See :class:`loraedit.families.base.Family`."""
        if cpu_kernels_apply(device, self.resources):
            use_cpu_kernels(transformer)

    def velocity(self, transformer: Any, latents: Tensor, timestep: Tensor, condition: Encoded) -> Tensor:
        """Predicts v_theta for noisy latents ``[B, c, f, h, w]`` at timesteps ``[B]`` (1000 t), in float32."""
        dtype = transformer.dtype  # the precision of the layers; some modulation tables stay float32
        hidden, timestep = self._input(latents, timestep, condition.condition)
        hidden = hidden.to(computed_in(hidden.device.type, dtype))  # as autocast would; the old tensor is released
        image = condition.image
        if image is not None and self.card.image_frames > 1:  # the embedder takes the frames as rows of the batch
            image = image.reshape(len(image) * self.card.image_frames, -1, image.shape[2])
        output: Tensor = transformer(
            hidden_states=hidden,
            timestep=timestep,
            encoder_hidden_states=condition.text.to(dtype),
            encoder_hidden_states_image=None if image is None else image.to(dtype),
            return_dict=False,
        )[0]
        return output.float()

    def _input(self, latents: Tensor, timestep: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the transformer's input and timesteps, ``[B]`` or, with one per token, ``[B, L]``."""
        if self.card.mask == "channels":
            return torch.cat([latents, condition], 1), timestep
        keep, shown = condition[:, :1], condition[:, 1:]
        token_timesteps = (1 - keep)[:, 0, :, :: self._patch, :: self._patch] * timestep.view(-1, 1, 1, 1)
        return keep * shown + (1 - keep) * latents, token_timesteps.flatten(1)

    def scheduler(
        self,
        sampling: SamplingSettings,
        steps: int,
        shape: Sequence[int],  # noqa: ARG002 (see LTX-2)
        device: torch.device,
    ) -> Any:
        """Returns the checkpoint's own scheduler (UniPC, FlowMatchEuler, ...), or the one that the settings name."""
        if not is_own(sampling):
            return open_scheduler(self.card, sampling, steps, device)
        scheduler = load_scheduler(self.card)
        scheduler.set_timesteps(steps, device=device)
        return scheduler

    # ---- LoRA names ----------------------------------------------------------------------------------------------

    def portable_lora_name(self, module: str) -> str:
        """``blocks.3.attn1.to_q`` -> ``diffusion_model.blocks.3.self_attn.q``."""
        return PREFIX + native_name(module)


def _squashed(frame: Pixels, side: int) -> Tensor:
    """Squashes a frame ``[1, H, W, 3]`` in [-1, 1] into a square ``[3, side, side]`` of 0 to 255, as Wan's code does.

    CLIP's processor would crop the frame to a square first, and the encoder would miss both ends of a wide one.
    """
    pixels = torch.from_numpy(np.ascontiguousarray(frame)).movedim(3, 1)
    square = functional.interpolate(pixels, size=(side, side), mode="bicubic", align_corners=False)
    return (square[0] + 1) * 127.5


def _statistics(vae: Any, latents: Tensor) -> tuple[Tensor, Tensor]:
    """Returns mean and 1 / standard deviation per latent channel, bit for bit as diffusers computes them."""
    shape = (1, vae.config.z_dim, 1, 1, 1)
    mean = torch.tensor(vae.config.latents_mean).view(shape).to(latents)
    return mean, 1.0 / torch.tensor(vae.config.latents_std).view(shape).to(latents)
