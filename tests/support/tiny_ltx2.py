"""Writes a tiny random LTX-2 checkpoint in the published layout, without the parts that make sound."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKLLTX2Video,
    FlowMatchEulerDiscreteScheduler,
    LTX2ConditionPipeline,
    LTX2VideoTransformer3DModel,
)
from diffusers.pipelines.ltx2.connectors import LTX2TextConnectors
from tiny_hunyuan import published, word_tokenizer
from transformers import Gemma3Config, Gemma3ForConditionalGeneration, Gemma3TextConfig, SiglipVisionConfig

LATENTS, WIDTH, LAYERS = 8, 16, 2
SOUND = 8


def tiny_vae() -> AutoencoderKLLTX2Video:
    """Returns a VAE with 32 pixels and 8 frames per cell, as published."""
    torch.manual_seed(1)
    vae = AutoencoderKLLTX2Video(
        latent_channels=LATENTS,
        block_out_channels=(8, 8, 16, 16),
        decoder_block_out_channels=(8, 16, 32),
        layers_per_block=(1, 1, 1, 1, 1),
        decoder_layers_per_block=(1, 1, 1, 1),
        decoder_causal=False,
        spatial_compression_ratio=32,
        temporal_compression_ratio=8,
    )
    with torch.no_grad():
        vae.latents_mean.copy_(torch.linspace(-0.2, 0.2, LATENTS))
        vae.latents_std.copy_(torch.linspace(0.5, 1.5, LATENTS))
    return vae.eval()


def tiny_gemma() -> Gemma3ForConditionalGeneration:
    torch.manual_seed(3)
    text = Gemma3TextConfig(
        vocab_size=16, hidden_size=WIDTH, intermediate_size=16, num_hidden_layers=LAYERS, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8, sliding_window=8, pad_token_id=0, bos_token_id=3, eos_token_id=1,
    )  # fmt: skip
    vision = SiglipVisionConfig(
        hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14
    )
    config = Gemma3Config(
        text_config=text, vision_config=vision, mm_tokens_per_image=4, boi_token_index=13, eoi_token_index=14,
        image_token_index=15,
    )  # fmt: skip
    return Gemma3ForConditionalGeneration(config).eval()


def save_tiny_ltx2(folder: Path) -> Path:
    """Writes a random checkpoint as diffusers itself would."""
    vae, gemma = tiny_vae(), tiny_gemma()
    torch.manual_seed(2)
    small = {
        "in_channels": LATENTS, "out_channels": LATENTS, "num_attention_heads": 2, "attention_head_dim": 12,
        "cross_attention_dim": 24, "num_layers": 2, "caption_channels": WIDTH, "audio_in_channels": SOUND,
        "audio_out_channels": SOUND, "audio_num_attention_heads": 2, "audio_attention_head_dim": 12,
        "audio_cross_attention_dim": 24,
    }  # fmt: skip
    transformer = LTX2VideoTransformer3DModel(**{**published("ltx-2-19b"), **small})
    kinds = {
        f"{kind}_connector_{name}": value
        for kind in ("video", "audio")
        for name, value in {
            "num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 1, "num_learnable_registers": 8
        }.items()
    }  # fmt: skip
    connectors = LTX2TextConnectors(
        caption_channels=WIDTH, text_proj_in_factor=LAYERS + 1, rope_type="split", **kinds
    ).eval()
    tokenizer = word_tokenizer(("a", "red", "coat"), "<s>")
    tokenizer.padding_side = "left"
    pipeline = LTX2ConditionPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(
            use_dynamic_shifting=True, base_shift=0.95, max_shift=2.05, base_image_seq_len=1024,
            max_image_seq_len=4096, shift_terminal=0.1,
        ),
        vae=vae,
        audio_vae=None,
        text_encoder=gemma,
        tokenizer=tokenizer,
        connectors=connectors,
        transformer=transformer.eval(),
        vocoder=None,
    )  # fmt: skip
    pipeline.save_pretrained(folder, safe_serialization=True)
    index = json.loads((folder / "model_index.json").read_text())
    sound = {"audio_vae": ["diffusers", "AutoencoderKLLTX2Audio"], "vocoder": ["ltx2", "LTX2Vocoder"]}
    (folder / "model_index.json").write_text(json.dumps({**index, **sound, "_class_name": "LTX2Pipeline"}))
    return folder
