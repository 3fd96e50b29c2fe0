"""Writes a tiny random HunyuanVideo-1.5 checkpoint in the published layout."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import (
    AutoencoderKLHunyuanVideo15,
    ClassifierFreeGuidance,
    FlowMatchEulerDiscreteScheduler,
    HunyuanVideo15ImageToVideoPipeline,
    HunyuanVideo15Transformer3DModel,
)
from tiny_hunyuan import published, word_tokenizer
from transformers import (
    ByT5Tokenizer,
    PreTrainedTokenizerFast,
    Qwen2_5_VLTextConfig,
    Qwen2_5_VLTextModel,
    SiglipImageProcessor,
    SiglipVisionConfig,
    SiglipVisionModel,
    T5Config,
    T5EncoderModel,
)

LATENTS = 4
BEFORE_THE_PROMPT = 108
"""Tokens of the true template before the prompt; the pipeline removes this number of tokens."""


def chat_tokenizer() -> PreTrainedTokenizerFast:
    """Returns a tokenizer whose template has the true length."""
    tokenizer = word_tokenizer(("a", "red", "coat"))
    filler = "a " * BEFORE_THE_PROMPT
    tokenizer.chat_template = filler + "{{ messages[1]['content'] }} a"
    return tokenizer


def tiny_vae() -> AutoencoderKLHunyuanVideo15:
    """Returns a VAE with 16 pixels and 4 frames per cell, as published."""
    torch.manual_seed(1)
    vae = AutoencoderKLHunyuanVideo15(latent_channels=LATENTS, block_out_channels=(8, 8, 8, 8, 8), layers_per_block=1)
    return vae.eval()


def tiny_transformer() -> HunyuanVideo15Transformer3DModel:
    """Returns a transformer of the published configuration with small numbers."""
    torch.manual_seed(2)
    small = {
        "in_channels": 2 * LATENTS + 1, "out_channels": LATENTS, "num_attention_heads": 2, "attention_head_dim": 12,
        "num_layers": 2, "num_refiner_layers": 1, "text_embed_dim": 16, "text_embed_2_dim": 8, "image_embed_dim": 8,
        "rope_axes_dim": (4, 4, 4), "target_size": 64,
    }  # fmt: skip
    return HunyuanVideo15Transformer3DModel(**{**published("hunyuan-1.5-480p-i2v"), **small}).eval()


def save_tiny_hunyuan15(folder: Path) -> Path:
    """Writes a random checkpoint as diffusers itself would."""
    vae, transformer = tiny_vae(), tiny_transformer()
    torch.manual_seed(3)
    qwen = Qwen2_5_VLTextConfig(
        vocab_size=16, hidden_size=16, intermediate_size=16, num_hidden_layers=3, num_attention_heads=2,
        num_key_value_heads=2, pad_token_id=0, bos_token_id=3, eos_token_id=1,
        rope_parameters={"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0},
    )  # fmt: skip
    byt5 = T5Config(vocab_size=384, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    siglip = SiglipVisionConfig(
        hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14
    )
    pipeline = HunyuanVideo15ImageToVideoPipeline(
        text_encoder=Qwen2_5_VLTextModel(qwen).eval(),
        tokenizer=chat_tokenizer(),
        transformer=transformer,
        vae=vae,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=5.0),
        text_encoder_2=T5EncoderModel(byt5).eval(),
        tokenizer_2=ByT5Tokenizer(),
        guider=ClassifierFreeGuidance(guidance_scale=6.0),
        image_encoder=SiglipVisionModel(siglip).eval(),
        feature_extractor=SiglipImageProcessor(size={"height": 28, "width": 28}),
    )
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder
