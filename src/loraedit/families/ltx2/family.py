"""LTX-2 without its sound: each token has a timestep, and the picture does not attend to the sound.

The transformer generates picture and sound together, and each attends to the other. ``isolate_modalities`` separates
them, as the model does for its own guidance. An edit keeps the sound of the source, so only the picture is generated:
the sound gets one empty token, which the picture never sees.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKLLTX2Video, LTX2ConditionPipeline, LTX2VideoTransformer3DModel
from diffusers.pipelines.ltx2.pipeline_ltx2_condition import calculate_shift
from torch import Tensor

from loraedit.families.base import Encoded
from loraedit.families.encoder_passes import connect_layers, read_prompt_keeping_layers
from loraedit.families.keep_channel import shown_where_kept
from loraedit.families.loading import load_scheduler
from loraedit.families.ltx.family import LtxFamily
from loraedit.families.schedulers import is_own, open_scheduler
from loraedit.settings import SamplingSettings

__all__ = ["Ltx2Family"]


class Ltx2Family(LtxFamily):
    """See :class:`loraedit.families.base.Family`."""

    pipeline_kind = LTX2ConditionPipeline
    not_for_prompts = (
        "transformer", "vae", "audio_vae", "vocoder", "scheduler",
        "audio_scheduler", "processor", "prompt_enhancer", "duration_head",
    )  # fmt: skip
    transformer_kind = LTX2VideoTransformer3DModel
    vae_kind = AutoencoderKLLTX2Video

    def _connect(self, pipeline: Any, text: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Passes the outputs of all Gemma layers through the connector."""
        words, _, valid = pipeline.connectors(text, mask, padding_side=pipeline.tokenizer_padding_side)
        return words, valid

    def run_encoder(self, name: str, encoder: Any) -> None:
        """See :class:`loraedit.families.base.Family`."""
        run = connect_layers if name == "connectors" else read_prompt_keeping_layers
        run(encoder, self.card.settings.text_tokens)

    def velocity(self, transformer: Any, latents: Tensor, timestep: Tensor, condition: Encoded) -> Tensor:
        """Predicts v_theta for noisy latents ``[B, c, f, h, w]`` at timesteps ``[B]`` (1000 t), in float32."""
        dtype, shown, config = transformer.dtype, condition.condition, transformer.config
        size = (config.patch_size, config.patch_size_t)
        keep, visible = shown_where_kept(latents, shown)
        kept = LTX2ConditionPipeline._pack_latents(keep.float(), *size)[..., 0]
        words = condition.text.to(dtype)
        sound_width = config.caption_channels if config.use_prompt_embeddings else config.audio_cross_attention_dim
        output: Tensor = transformer(
            hidden_states=LTX2ConditionPipeline._pack_latents(visible, *size).to(dtype),
            audio_hidden_states=words.new_zeros(len(latents), 1, config.audio_in_channels),
            encoder_hidden_states=words,
            audio_encoder_hidden_states=words.new_zeros(len(latents), 1, sound_width),
            timestep=timestep[:, None].float() * (1 - kept),
            audio_timestep=timestep.float(),
            sigma=timestep.float(),
            num_frames=latents.shape[2],
            height=latents.shape[3],
            width=latents.shape[4],
            fps=self._rates(latents, condition)[:, None, None],  # one for each sample; divides [B, L, 2]
            audio_num_frames=1,
            isolate_modalities=True,
            use_cross_timestep=True,
            return_dict=False,
        )[0]
        grid = (latents.shape[2] // size[1], latents.shape[3] // size[0], latents.shape[4] // size[0])
        cells: Tensor = LTX2ConditionPipeline._unpack_latents(output.float(), *grid, *size)
        return cells

    def scheduler(self, sampling: SamplingSettings, steps: int, shape: Sequence[int], device: torch.device) -> Any:
        """Returns the checkpoint's own scheduler, whose flow shift depends on the number of tokens, or a named one.

        The shift is that of diffusers' pipeline. The authors' pipeline of one stage takes the largest one (2.05) for
        clips of any size.
        """
        scheduler = load_scheduler(self.card)
        config = scheduler.config
        tokens = int(np.prod(shape[1:])) // (self.config["patch_size"] ** 2 * self.config["patch_size_t"])
        shift = calculate_shift(
            tokens,
            config.get("base_image_seq_len", 1024),
            config.get("max_image_seq_len", 4096),
            config.get("base_shift", 0.95),
            config.get("max_shift", 2.05),
        )
        if not is_own(sampling):
            return open_scheduler(self.card, sampling, steps, device, math.exp(shift))
        if steps == 1:
            scheduler.register_to_config(shift_terminal=None)  # with one step there is no last step to move
        scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=shift, device=device)
        return scheduler
