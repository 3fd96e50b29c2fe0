"""LTX-Video by its condition pipeline: one timestep for every token, and kept tokens hold the condition itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from diffusers import AutoencoderKLLTXVideo, LTXConditionPipeline, LTXVideoTransformer3DModel
from diffusers.pipelines.ltx.pipeline_ltx_condition import linear_quadratic_schedule
from torch import Tensor

from loraedit.families.base import TIMESTEPS, Encoded
from loraedit.families.keep_channel import Fields, KeepChannelFamily, shown_where_kept
from loraedit.families.loading import free, load_pipeline, load_scheduler
from loraedit.types import Pixels

__all__ = ["FRAME_RATE", "LtxFamily", "positions"]

FRAME_RATE = 25.0
"""Frames per second that the position codes count in, whatever the clip's own: the pipeline's default."""

DECODE_TIMESTEP = 0.05
"""What a decoder that reads a timestep is told, as in the examples of its authors; no noise is added with it."""


class LtxFamily(KeepChannelFamily):
    """See :class:`loraedit.families.base.Family`."""

    pipeline_kind: ClassVar[Any] = LTXConditionPipeline
    not_for_words: ClassVar[tuple[str, ...]] = ("transformer", "vae", "scheduler")
    """The pipeline's components that prompts are encoded without."""
    transformer_kind: ClassVar[Any] = LTXVideoTransformer3DModel
    vae_kind: ClassVar[Any] = AutoencoderKLLTXVideo
    linears = {  # noqa: RUF012 (a ClassVar of the base)
        "transformer_blocks": (
            "num_layers",
            (
                "attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0",
                "attn2.to_q", "attn2.to_k", "attn2.to_v", "attn2.to_out.0", "ff.net.0.proj", "ff.net.2",
            ),
        )
    }  # fmt: skip

    def _word_shapes(self) -> dict[str, tuple[int, ...]]:
        """The prompt alone."""
        return {"text": (self.card.settings.text_tokens, self.config["caption_channels"])}

    def _describe(self, pairs: Sequence[tuple[str, Pixels | None]], device: torch.device) -> list[Fields]:
        """The prompt alone is read; padding is cut off."""
        pipeline = load_pipeline(self.card, self.pipeline_kind, self.not_for_words, device, self.resources)
        by_prompt = {}
        with torch.inference_mode():
            for prompt in dict.fromkeys(prompt for prompt, _ in pairs):
                text, mask, _, _ = pipeline.encode_prompt(
                    prompt,
                    do_classifier_free_guidance=False,
                    max_sequence_length=self.card.settings.text_tokens,
                    device=device,
                )
                text, mask = self._connected(pipeline, text, mask)
                by_prompt[prompt] = text[0, mask[0].bool()].float().cpu()
        del pipeline
        free()
        return [{"text": by_prompt[prompt].clone()} for prompt, _ in pairs]

    def _connected(self, _pipeline: Any, text: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """The transformer's words, and which of them are valid, of the text encoder's: T5's are taken as they are."""
        return text, mask

    def _normalise(self, vae: Any, latents: Tensor, back: bool = False) -> Tensor:
        """With the statistics that the VAE brings."""
        turn = LTXConditionPipeline._denormalize_latents if back else LTXConditionPipeline._normalize_latents
        turned: Tensor = turn(latents, vae.latents_mean, vae.latents_std, vae.config.scaling_factor)
        return turned

    def vae_decode(self, vae: Any, latents: Tensor) -> Tensor:
        """See :class:`loraedit.families.base.Family`."""
        raw = self._normalise(vae, latents, back=True)
        timestep = torch.tensor([DECODE_TIMESTEP]).to(raw) if vae.config.timestep_conditioning else None
        video: Tensor = vae.decode(raw, timestep, return_dict=False)[0]
        return video

    def velocity(self, transformer: Any, latents: Tensor, timestep: Tensor, condition: Encoded) -> Tensor:
        """v_theta of noisy latents ``[B, c, f, h, w]`` at timesteps ``[B]`` (1000 t), float32."""
        dtype, shown = transformer.dtype, condition.condition
        keep, visible = shown_where_kept(latents, shown)
        size = (transformer.config.patch_size, transformer.config.patch_size_t)
        tokens = LTXConditionPipeline._pack_latents(visible, *size)
        kept = LTXConditionPipeline._pack_latents(keep.float(), *size)[..., 0]
        output: Tensor = transformer(
            hidden_states=tokens.to(dtype),
            encoder_hidden_states=condition.text.to(dtype),
            timestep=timestep[:, None].float() * (1 - kept),
            encoder_attention_mask=None,  # no text token is padding
            video_coords=positions(latents.shape, size, self.card.spatial, self.card.temporal).to(latents.device),
            return_dict=False,
        )[0]
        grid = (latents.shape[2] // size[1], latents.shape[3] // size[0], latents.shape[4] // size[0])
        cells: Tensor = LTXConditionPipeline._unpack_latents(output.float(), *grid, *size)
        return cells

    def scheduler(self, steps: int, shape: Sequence[int], device: torch.device) -> Any:  # noqa: ARG002 (see LTX-2)
        """The checkpoint's own scheduler on the pipeline's schedule: half the steps near pure noise.

        Distilled checkpoints ask for fresh noise in every step; here the path is the straight one, as only that gives
        the same result again.
        """
        scheduler = load_scheduler(self.card)
        scheduler.register_to_config(stochastic_sampling=False)
        levels = linear_quadratic_schedule(steps).numpy()
        scheduler.set_timesteps(sigmas=levels, timesteps=levels * TIMESTEPS, device=device)
        return scheduler

    def portable_lora_name(self, module: str) -> str:
        """LTX's own names are those of diffusers; ComfyUI and diffusers both read them with this prefix."""
        return f"diffusion_model.{module}"


def positions(shape: Sequence[int], patch: tuple[int, int], spatial: int, temporal: int) -> Tensor:
    """Where each token is: seconds, and pixels down and right, float32 ``[B, 3, L]``.

    Args:
        shape: of the latents, ``[B, c, f, h, w]``.
        patch: cells of a patch, per side and in time.
    """
    count, _, frames, height, width = shape
    ids = LTXConditionPipeline._prepare_video_ids(
        count, frames, height, width, patch_size=patch[0], patch_size_t=patch[1], device=torch.device("cpu")
    )
    places: Tensor = LTXConditionPipeline._scale_video_ids(ids, spatial, temporal, 0, torch.device("cpu")).float()
    places[:, 0] /= FRAME_RATE
    return places
