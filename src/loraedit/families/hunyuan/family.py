"""HunyuanVideo image-to-video, both kinds: the mask as a channel (33 channels), or by replaced tokens (16 channels).

Both were published for whole frames, but accept a mask inside the frame without a change of weights. The 33 channel
model has a mask channel. The other one treats the tokens of frame 1 separately, with the modulation of timestep 0. It
recognises these tokens by their order alone, so :func:`forward_with_kept_tokens` puts the kept tokens first, with their
position codes, and all others after them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import AutoencoderKLHunyuanVideo, HunyuanVideoImageToVideoPipeline, HunyuanVideoTransformer3DModel
from PIL import Image
from torch import Tensor

from loraedit.families.base import Encoded, EncoderInput, Fields
from loraedit.families.encoder_passes import read_picture_and_prompt, read_prompt
from loraedit.families.keep_channel import KeepChannelFamily, shown_where_kept
from loraedit.families.loading import free, load_pipeline
from loraedit.types import Pixels
from loraedit.video.scaling import to_uint8

__all__ = ["DOUBLE_BLOCK", "HunyuanFamily", "forward_with_kept_tokens"]

DOUBLE_BLOCK = (
    "attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0",
    "attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj", "attn.to_add_out",
    "ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2",
)  # fmt: skip
SINGLE_BLOCK = ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp", "proj_out")


class HunyuanFamily(KeepChannelFamily):
    """See :class:`loraedit.families.base.Family`."""

    transformer_kind = HunyuanVideoTransformer3DModel
    vae_kind = AutoencoderKLHunyuanVideo
    linears = {  # noqa: RUF012 (a ClassVar of the base)
        "transformer_blocks": ("num_layers", DOUBLE_BLOCK),
        "single_transformer_blocks": ("num_single_layers", SINGLE_BLOCK),
    }

    def _embedding_shapes(self) -> dict[str, tuple[int, ...]]:
        """Llava makes a token of each patch of a picture, and the pipeline takes a part of these tokens."""
        encoder = self.card.config("text_encoder")["vision_config"]
        picture = (encoder["image_size"] // encoder["patch_size"]) ** 2 // self._interleave(True)
        return {
            "text": (self.card.settings.text_tokens + picture, self.config["text_embed_dim"]),
            "text_2": (self.config["pooled_projection_dim"],),
        }

    def _interleave(self, pictured: bool) -> int:
        """Returns n: as in the pipeline, every n-th token of a picture is read."""
        return 4 if self.card.mask == "tokens" and pictured else 2

    def encoder_inputs(self, prompt: str, pictures: Sequence[Pixels] = ()) -> list[EncoderInput]:
        """Returns prompt and picture together, because Llava reads both."""
        return [EncoderInput(prompt, tuple(pictures[:1]))]

    def embed(self, inputs: Sequence[EncoderInput], device: torch.device) -> list[Fields]:
        """Encodes prompt and picture (black if there is none) with Llava, and the prompt with CLIP, without padding."""
        kind, absent = HunyuanVideoImageToVideoPipeline, ("transformer", "vae", "scheduler")
        pipeline = load_pipeline(self.card, kind, absent, device, self.resources)
        embeddings = []
        with torch.inference_mode():
            for each in inputs:
                size = pipeline.text_encoder.config.vision_config.image_size
                pictures = [Image.fromarray(to_uint8(picture)[0]) for picture in each.pictures]
                text, pooled, mask = pipeline.encode_prompt(
                    pictures[0] if pictures else Image.new("RGB", (size, size)),
                    each.prompt,
                    device=device,
                    max_sequence_length=self.card.settings.text_tokens,
                    image_embed_interleave=self._interleave(bool(pictures)),
                )
                embeddings.append({"text": text[0, mask[0].bool()].float().cpu(), "text_2": pooled[0].float().cpu()})
        del pipeline
        free()
        return [{name: value.clone() for name, value in fields.items()} for fields in embeddings]

    def run_encoder(self, name: str, encoder: Any) -> None:
        """See :class:`loraedit.families.base.Family`."""
        run = read_picture_and_prompt if name == "text_encoder" else read_prompt
        run(encoder, self.card.settings.text_tokens)

    def velocity(self, transformer: Any, latents: Tensor, timestep: Tensor, condition: Encoded) -> Tensor:
        """Predicts v_theta for noisy latents ``[B, c, f, h, w]`` at timesteps ``[B]`` (1000 t), in float32."""
        dtype, shown = transformer.dtype, condition.condition
        words = self._prompt_arguments(condition, len(latents), dtype)
        if self.card.mask == "channels":
            packed = torch.cat([latents, shown[:, 1:], shown[:, :1]], 1).to(dtype)
            output: Tensor = transformer(packed, timestep, **words, return_dict=False)[0]
            return output.float()
        keep, visible = shown_where_kept(latents, shown)
        rows = [  # one by one, because each has its own order of tokens
            forward_with_kept_tokens(
                transformer,
                visible[at].to(dtype),
                keep[at],
                timestep[at],
                **{k: v[at] for k, v in words.items() if v is not None},
            )
            for at in (slice(index, index + 1) for index in range(len(latents)))
        ]
        return torch.cat(rows).float()

    def _prompt_arguments(self, condition: Encoded, count: int, dtype: torch.dtype) -> dict[str, Any]:
        """Returns the transformer's arguments from prompt and guidance; no text token is padding."""
        assert condition.text_2 is not None
        scale = torch.ones(count) if condition.guidance is None else condition.guidance
        return {
            "encoder_hidden_states": condition.text.to(dtype),
            "encoder_attention_mask": torch.ones(condition.text.shape[:2], device=condition.text.device),
            "pooled_projections": condition.text_2.to(dtype),
            "guidance": (scale * 1000).to(condition.text.device, dtype) if self.card.embeds_guidance else None,
        }


def forward_with_kept_tokens(
    transformer: Any,
    latents: Tensor,
    keep: Tensor,
    timestep: Tensor,
    encoder_hidden_states: Tensor,
    encoder_attention_mask: Tensor,
    pooled_projections: Tensor,
    guidance: Tensor | None = None,
) -> Tensor:
    """Runs HunyuanVideo with replaced tokens, for any set of kept tokens in place of those of frame 1.

    Args:
        transformer: the transformer.
        latents: of one sample, with the condition in kept cells, ``[1, c, f, h, w]``.
        keep: bool ``[1, 1, f, h, w]``, equal in all cells of a patch.
        timestep: of the tokens that are not kept, 1000 t, ``[1]``.
        encoder_hidden_states: text and image tokens without padding, ``[1, L, D]``.
        encoder_attention_mask: ones ``[1, L]``.
        pooled_projections: ``[1, P]``.
        guidance: 1000 times the scale, ``[1]``, if the model reads it.

    Returns:
        The velocity ``[1, c, f, h, w]``.
    """
    patch, frames = transformer.config.patch_size, transformer.config.patch_size_t
    kept = keep[0, 0, ::frames, ::patch, ::patch]
    order = torch.argsort(~kept.flatten(), stable=True)
    rotary = tuple(codes[order] for codes in transformer.rope(latents))
    time, kept_time = transformer.time_text_embed(timestep, pooled_projections, guidance)
    hidden = transformer.x_embedder(latents)[:, order]
    words = transformer.context_embedder(encoder_hidden_states, timestep, encoder_attention_mask)
    shared = (time, None, rotary, kept_time, int(kept.sum()))
    for block in (*transformer.transformer_blocks, *transformer.single_transformer_blocks):
        if torch.is_grad_enabled() and transformer.gradient_checkpointing:
            hidden, words = transformer._gradient_checkpointing_func(block, hidden, words, *shared)
        else:
            hidden, words = block(hidden, words, *shared)
    output = transformer.proj_out(transformer.norm_out(hidden, time))[:, torch.argsort(order)]
    cells: Tensor = output.view(1, *kept.shape, -1, frames, patch, patch).permute(0, 4, 1, 5, 2, 6, 3, 7)
    return cells.flatten(6, 7).flatten(4, 5).flatten(2, 3)
