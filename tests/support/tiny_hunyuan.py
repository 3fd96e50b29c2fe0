"""Writes tiny random HunyuanVideo checkpoints in the published layout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKLHunyuanVideo,
    FlowMatchEulerDiscreteScheduler,
    HunyuanVideoImageToVideoPipeline,
    HunyuanVideoTransformer3DModel,
)
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
from transformers import (
    CLIPImageProcessor,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
)

from loraedit.families import known

PUBLISHED = json.loads(Path(known.__file__).with_name("known_models.json").read_text())
"""Published models: the sizes of their components, and the components of each model."""

LATENTS = 4
WORDS = ("a", "red", "coat", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<image>")


def published(name: str) -> dict[str, Any]:
    """Returns the published configuration of a component."""
    config: dict[str, Any] = PUBLISHED["components"][name]["config"]
    return config


def word_tokenizer(words: tuple[str, ...], start: str = "") -> PreTrainedTokenizerFast:
    """Returns a tokenizer with one token per known word, and per 11 letters of others (the template's true length)."""
    vocabulary = {word: index for index, word in enumerate(("<pad>", "</s>", "<unk>", "<s>", *words))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"\n\n|<[^>]*>|\w{1,11}|[^\w\s]"), "removed", invert=True)
    if start:
        tokenizer.post_processor = processors.TemplateProcessing(single=f"{start} $A", special_tokens=[(start, 3)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", padding_side="right"
    )


def tiny_vae() -> AutoencoderKLHunyuanVideo:
    torch.manual_seed(1)
    vae = AutoencoderKLHunyuanVideo(
        latent_channels=LATENTS, block_out_channels=(4, 4, 8, 8), layers_per_block=1, norm_num_groups=2
    )
    return vae.eval()


def tiny_transformer(kind: str) -> HunyuanVideoTransformer3DModel:
    """Returns a transformer of the published configuration with small numbers."""
    torch.manual_seed(2)
    config = published(f"hunyuan-i2v-{kind}")
    small = {
        "in_channels": 2 * LATENTS + 1 if config["in_channels"] == 33 else LATENTS,
        "out_channels": LATENTS,
        "num_attention_heads": 2,
        "attention_head_dim": 12,
        "num_layers": 1,
        "num_single_layers": 2,
        "num_refiner_layers": 1,
        "text_embed_dim": 16,
        "pooled_projection_dim": 8,
        "rope_axes_dim": (4, 4, 4),
    }
    return HunyuanVideoTransformer3DModel(**{**config, **small}).eval()


def tiny_llava() -> LlavaForConditionalGeneration:
    """Returns a LLaVA with 576 image tokens, as the prompt template requires."""
    torch.manual_seed(3)
    text = LlamaConfig(
        vocab_size=16, hidden_size=16, intermediate_size=16, num_hidden_layers=3, num_attention_heads=2, pad_token_id=0
    )
    vision = CLIPVisionConfig(
        hidden_size=8, intermediate_size=8, num_hidden_layers=2, num_attention_heads=2, image_size=48, patch_size=2
    )
    image_token = WORDS.index("<image>") + 4
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=image_token, pad_token_id=0)
    return LlavaForConditionalGeneration(config).eval()


def save_tiny_hunyuan(folder: Path, kind: str) -> Path:
    """Writes a random checkpoint as diffusers itself would; the kind is 33ch or 16ch."""
    torch.manual_seed(4)
    clip = CLIPTextConfig(
        vocab_size=16, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=77, bos_token_id=3, eos_token_id=1, pad_token_id=0,
    )  # fmt: skip
    pipeline = HunyuanVideoImageToVideoPipeline(
        text_encoder=tiny_llava(),
        tokenizer=word_tokenizer(WORDS, "<s>"),
        transformer=tiny_transformer(kind),
        vae=tiny_vae(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=7.0),
        text_encoder_2=CLIPTextModel(clip).eval(),
        tokenizer_2=word_tokenizer(WORDS),
        image_processor=CLIPImageProcessor(size={"shortest_edge": 48}, crop_size=48),
    )
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder
