"""HunyuanVideo-1.5 image-to-video: noise, condition and mask are input channels; encoders are loaded one at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from diffusers import (
    AutoencoderKLHunyuanVideo15,
    HunyuanVideo15ImageToVideoPipeline,
    HunyuanVideo15Transformer3DModel,
)
from PIL import Image
from torch import Tensor
from transformers import (
    AutoTokenizer,
    ByT5Tokenizer,
    Qwen2_5_VLTextModel,
    SiglipImageProcessor,
    SiglipVisionModel,
    T5EncoderModel,
)

from loraedit.families.base import Encoded, EncoderInput, Fields
from loraedit.families.hunyuan.family import DOUBLE_BLOCK
from loraedit.families.keep_channel import KeepChannelFamily
from loraedit.families.loading import load_encoder, loading
from loraedit.settings import LoraTargets
from loraedit.types import Pixels
from loraedit.video.scaling import to_uint8

__all__ = ["Hunyuan15Family"]

TEXT_ONLY = ("attn.add_q_proj", "attn.to_add_out", "ff_context.net.0.proj", "ff_context.net.2")
"""Layers of a block that only affect the text."""

GLYPHS = 256
"""Tokens for the parts of a prompt in quotation marks, as in the pipeline."""


class Hunyuan15Family(KeepChannelFamily):
    """See :class:`loraedit.families.base.Family`."""

    transformer_kind = HunyuanVideo15Transformer3DModel
    vae_kind = AutoencoderKLHunyuanVideo15
    linears = {"transformer_blocks": ("num_layers", DOUBLE_BLOCK)}  # noqa: RUF012 (a ClassVar of the base)

    def lora_targets(self, which: LoraTargets) -> tuple[str, ...]:
        """Returns the usual layers without those of the last block's text: nothing reads it, so nothing is learnt."""
        last = f"transformer_blocks.{int(self.config['num_layers']) - 1}."
        unread = tuple(last + name for name in TEXT_ONLY)
        return tuple(name for name in super().lora_targets(which) if name not in unread)

    def _embedding_shapes(self) -> dict[str, tuple[int, ...]]:
        """ByT5 has a fixed number of glyph tokens, and SigLIP makes a token of each patch of a picture."""
        encoder = self.card.config("image_encoder")
        return {
            "text": (self.card.settings.text_tokens, self.config["text_embed_dim"]),
            "text_2": (GLYPHS, self.config["text_embed_2_dim"]),
            "image": ((encoder["image_size"] // encoder["patch_size"]) ** 2, self.config["image_embed_dim"]),
        }

    def encoder_inputs(self, prompt: str, pictures: Sequence[Pixels] = ()) -> list[EncoderInput]:
        """Returns the prompt, and the picture apart."""
        return [EncoderInput(prompt), *(EncoderInput(None, (picture,)) for picture in pictures[:1])]

    def embed(self, inputs: Sequence[EncoderInput], device: torch.device) -> list[Fields]:
        """Encodes prompts with Qwen, their quotations with ByT5, and pictures with SigLIP; no padding."""
        prompts = [each.prompt for each in inputs if each.prompt is not None]
        words = zip(self._qwen(prompts, device), self._byt5(prompts, device), strict=True)
        pictures = iter(self._siglip([each.pictures[0] for each in inputs if each.prompt is None], device))
        texts = ({"text": text, "text_2": glyphs} for text, glyphs in words)
        return [{"image": next(pictures)} if each.prompt is None else next(texts) for each in inputs]

    def _qwen(self, prompts: Sequence[str], device: torch.device) -> list[Tensor]:
        if not prompts:
            return []
        encode = HunyuanVideo15ImageToVideoPipeline._get_mllm_prompt_embeds
        with self._encoder("text_encoder", Qwen2_5_VLTextModel, "tokenizer", AutoTokenizer, device) as (model, words):
            length = self.card.settings.text_tokens
            return [_without_padding(*encode(model, words, prompt, device, length)) for prompt in prompts]

    def _byt5(self, prompts: Sequence[str], device: torch.device) -> list[Tensor]:
        if not prompts:
            return []
        encode = HunyuanVideo15ImageToVideoPipeline._get_byt5_prompt_embeds
        with self._encoder("text_encoder_2", T5EncoderModel, "tokenizer_2", ByT5Tokenizer, device) as (model, words):
            return [_without_padding(*encode(words, model, prompt, device)) for prompt in prompts]

    def _siglip(self, images: Sequence[Pixels], device: torch.device) -> list[Tensor]:
        if not images:
            return []
        encode = HunyuanVideo15ImageToVideoPipeline._get_image_embeds
        kinds = ("image_encoder", SiglipVisionModel, "feature_extractor", SiglipImageProcessor)
        with self._encoder(*kinds, device) as (model, processor):
            pictures = [Image.fromarray(to_uint8(image)[0]) for image in images]
            return [encode(model, processor, picture, device)[0].float().cpu().clone() for picture in pictures]

    @contextmanager
    def _encoder(
        self, name: str, kind: Any, reader: str, reader_kind: Any, device: torch.device
    ) -> Iterator[tuple[Any, Any]]:
        """Provides an encoder and the processor that prepares its input."""
        with loading(self.card):
            prepare = reader_kind.from_pretrained(self.card.folder / reader)
        with load_encoder(self.card, kind, name, device, self.resources) as model, torch.inference_mode():
            yield model, prepare

    def velocity(self, transformer: Any, latents: Tensor, timestep: Tensor, condition: Encoded) -> Tensor:
        """Predicts v_theta for noisy latents ``[B, c, f, h, w]`` at timesteps ``[B]`` (1000 t), in float32."""
        dtype, shown, glyphs = transformer.dtype, condition.condition, condition.text_2
        assert glyphs is not None and condition.image is not None
        output: Tensor = transformer(
            hidden_states=torch.cat([latents, shown[:, 1:], shown[:, :1]], 1).to(dtype),
            timestep=timestep.to(dtype),
            encoder_hidden_states=condition.text.to(dtype),
            encoder_attention_mask=torch.ones(condition.text.shape[:2], device=latents.device),
            encoder_hidden_states_2=glyphs.to(dtype),
            encoder_attention_mask_2=torch.ones(glyphs.shape[:2], device=latents.device),
            image_embeds=condition.image.to(dtype),
            return_dict=False,
        )[0]
        return output.float()


def _without_padding(embeddings: Tensor, mask: Tensor) -> Tensor:
    """Returns ``[1, L, D]`` without its padding, in float32 on the CPU."""
    return embeddings[0, mask[0].bool()].float().cpu().clone()
