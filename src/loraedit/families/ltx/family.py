"""LTX-Video with its condition pipeline: each token has a timestep, and kept tokens hold the condition itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from diffusers import AutoencoderKLLTXVideo, LTXConditionPipeline, LTXVideoTransformer3DModel
from diffusers.pipelines.ltx.pipeline_ltx_condition import linear_quadratic_schedule
from torch import Tensor

from loraedit.families.base import TIMESTEPS, Encoded, EncoderInput, Fields
from loraedit.families.keep_channel import KeepChannelFamily, shown_where_kept
from loraedit.families.loading import free, load_pipeline, load_scheduler
from loraedit.families.schedulers import is_own, open_scheduler
from loraedit.settings import SamplingSettings
from loraedit.types import Pixels

__all__ = ["LtxFamily", "positions"]

DECODE_TIMESTEP = 0.05
"""Timestep for decoders that read one, as in the examples of the authors; no noise is added with it."""


class LtxFamily(KeepChannelFamily):
    """See :class:`loraedit.families.base.Family`."""

    pipeline_kind: ClassVar[Any] = LTXConditionPipeline
    not_for_prompts: ClassVar[tuple[str, ...]] = ("transformer", "vae", "scheduler")
    """Components of the pipeline that encoding a prompt does not need."""
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

    def _embedding_shapes(self) -> dict[str, tuple[int, ...]]:
        """See :class:`KeepChannelFamily`."""
        return {"text": (self.card.settings.text_tokens, self.config["caption_channels"])}

    def encoder_inputs(self, prompt: str, pictures: Sequence[Pixels] = ()) -> list[EncoderInput]:  # noqa: ARG002
        """Returns the prompt; pictures are not read."""
        return [EncoderInput(prompt)]

    def embed(self, inputs: Sequence[EncoderInput], device: torch.device) -> list[Fields]:
        """Encodes the prompts without padding."""
        pipeline = load_pipeline(self.card, self.pipeline_kind, self.not_for_prompts, device, self.resources)
        embeddings: list[Fields] = []
        with torch.inference_mode():
            for each in inputs:
                text, mask, _, _ = pipeline.encode_prompt(
                    each.prompt,
                    do_classifier_free_guidance=False,
                    max_sequence_length=self.card.settings.text_tokens,
                    device=device,
                )
                text, mask = self._connect(pipeline, text, mask)
                embeddings.append({"text": text[0, mask[0].bool()].float().cpu().clone()})
        del pipeline
        free()
        return embeddings

    def _connect(self, _pipeline: Any, text: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Turns the text encoder's output and mask into the transformer's; T5's output stays unchanged."""
        return text, mask

    def _normalise(self, vae: Any, latents: Tensor, back: bool = False) -> Tensor:
        """Normalises with the statistics in the VAE."""
        convert = LTXConditionPipeline._denormalize_latents if back else LTXConditionPipeline._normalize_latents
        result: Tensor = convert(latents, vae.latents_mean, vae.latents_std, vae.config.scaling_factor)
        return result

    def vae_decode(self, vae: Any, latents: Tensor) -> Tensor:
        """See :class:`loraedit.families.base.Family`."""
        raw = self._normalise(vae, latents, back=True)
        timestep = torch.tensor([DECODE_TIMESTEP]).to(raw) if vae.config.timestep_conditioning else None
        video: Tensor = vae.decode(raw, timestep, return_dict=False)[0]
        return video

    def _rates(self, latents: Tensor, condition: Encoded) -> Tensor:
        """Returns the frame rate of each sample, float32 ``[B]``: the clip's own, as its authors' trainer does."""
        if condition.frame_rate is None:
            return torch.full((len(latents),), self.card.settings.frame_rate, device=latents.device)
        return condition.frame_rate

    def velocity(self, transformer: Any, latents: Tensor, timestep: Tensor, condition: Encoded) -> Tensor:
        """Predicts v_theta for noisy latents ``[B, c, f, h, w]`` at timesteps ``[B]`` (1000 t), in float32."""
        dtype, shown = transformer.dtype, condition.condition
        keep, visible = shown_where_kept(latents, shown)
        size, rates = (transformer.config.patch_size, transformer.config.patch_size_t), self._rates(latents, condition)
        tokens = LTXConditionPipeline._pack_latents(visible, *size)
        kept = LTXConditionPipeline._pack_latents(keep.float(), *size)[..., 0]
        output: Tensor = transformer(
            hidden_states=tokens.to(dtype),
            encoder_hidden_states=condition.text.to(dtype),
            timestep=timestep[:, None].float() * (1 - kept),
            encoder_attention_mask=None,  # no text token is padding
            video_coords=positions(latents.shape, size, self.card.spatial, self.card.temporal, rates),
            return_dict=False,
        )[0]
        grid = (latents.shape[2] // size[1], latents.shape[3] // size[0], latents.shape[4] // size[0])
        cells: Tensor = LTXConditionPipeline._unpack_latents(output.float(), *grid, *size)
        return cells

    def scheduler(
        self,
        sampling: SamplingSettings,
        steps: int,
        shape: Sequence[int],  # noqa: ARG002 (see LTX-2)
        device: torch.device,
    ) -> Any:
        """Returns the checkpoint's own scheduler with the pipeline's schedule: half the steps are near pure noise.

        A solver or a flow shift in the settings replaces that schedule. Distilled checkpoints would add fresh noise in
        every step. That is off, so that results are reproducible.
        """
        if not is_own(sampling):
            return open_scheduler(self.card, sampling, steps, device)
        scheduler = load_scheduler(self.card)
        scheduler.register_to_config(stochastic_sampling=False)
        levels = linear_quadratic_schedule(steps).numpy()
        scheduler.set_timesteps(sigmas=levels, timesteps=levels * TIMESTEPS, device=device)
        return scheduler

    def portable_lora_name(self, module: str) -> str:
        """Returns diffusers' name, which is also the native one, with the prefix that ComfyUI and diffusers read."""
        return f"diffusion_model.{module}"


def positions(shape: Sequence[int], patch: tuple[int, int], spatial: int, temporal: int, rates: Tensor) -> Tensor:
    """Returns the place of each token in seconds and in pixels down and right, float32 ``[B, 3, L]``.

    Args:
        shape: of the latents, ``[B, c, f, h, w]``.
        patch: cells of a patch, per side and in time.
        spatial: pixels per latent cell, per side.
        temporal: frames per latent frame.
        rates: frames per second of each sample, ``[B]``.
    """
    count, _, frames, height, width = shape
    ids = LTXConditionPipeline._prepare_video_ids(
        count, frames, height, width, patch_size=patch[0], patch_size_t=patch[1], device=torch.device("cpu")
    )
    frames_down_right = LTXConditionPipeline._scale_video_ids(ids, spatial, temporal, 0, torch.device("cpu"))
    places: Tensor = frames_down_right.float().to(rates.device)
    places[:, 0] /= rates[:, None]
    return places
