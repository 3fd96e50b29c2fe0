"""Writes tiny random LTX checkpoints in the published layout."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKLLTXVideo,
    FlowMatchEulerDiscreteScheduler,
    LTXConditionPipeline,
    LTXVideoTransformer3DModel,
)
from tiny_hunyuan import published, word_tokenizer
from transformers import T5Config, T5EncoderModel

LATENTS = 8


def quiet(vae: torch.nn.Module) -> None:
    """Removes the spread of the posterior, so that the pipeline samples its mode."""
    convolution = vae.encoder.conv_out.conv
    with torch.no_grad():
        convolution.weight[-1].zero_()
        convolution.bias[-1] = -1e4
        vae.latents_mean.copy_(torch.linspace(-0.2, 0.2, LATENTS))
        vae.latents_std.copy_(torch.linspace(0.5, 1.5, LATENTS))


def tiny_vae(timestep: bool) -> AutoencoderKLLTXVideo:
    """Returns a VAE with 32 pixels and 8 frames per cell, as published."""
    torch.manual_seed(1)
    vae = AutoencoderKLLTXVideo(
        latent_channels=LATENTS,
        block_out_channels=(4, 4, 8, 8),
        decoder_block_out_channels=(8, 16, 32),
        layers_per_block=(1, 1, 1, 1, 1),
        decoder_layers_per_block=(1, 1, 1, 1),
        spatio_temporal_scaling=(True, True, True, False),
        decoder_spatio_temporal_scaling=(True, True, True),
        decoder_inject_noise=(False, False, False, False),
        upsample_residual=(True, True, True),
        upsample_factor=(2, 2, 2),
        timestep_conditioning=timestep,
    )
    quiet(vae)
    return vae.eval()


def save_tiny_ltx(folder: Path, timestep: bool = True) -> Path:
    """Writes a random checkpoint as diffusers itself would."""
    vae = tiny_vae(timestep)
    torch.manual_seed(2)
    small = {
        "in_channels": LATENTS, "out_channels": LATENTS, "num_attention_heads": 2, "attention_head_dim": 12,
        "cross_attention_dim": 24, "num_layers": 2, "caption_channels": 16,
    }  # fmt: skip
    transformer = LTXVideoTransformer3DModel(**{**published("ltx-video-2b"), **small})
    text = T5Config(vocab_size=8, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, pad_token_id=0)
    pipeline = LTXConditionPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=vae,
        text_encoder=T5EncoderModel(text).eval(),
        tokenizer=word_tokenizer(("a", "red", "coat"), "<s>"),  # one token even for an empty prompt, as T5 has
        transformer=transformer.eval(),
    )
    pipeline.save_pretrained(folder, safe_serialization=True)
    index = json.loads((folder / "model_index.json").read_text())  # as in 0.9.5
    (folder / "model_index.json").write_text(json.dumps({**index, "_class_name": "LTXPipeline"}))
    return folder
