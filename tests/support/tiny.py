"""Writes tiny random checkpoints of the Wan I2V family in the published layouts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import (
    AutoencoderKLWan,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
    WanImageToVideoPipeline,
    WanTransformer3DModel,
)
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    CLIPVisionModel,
    CLIPVisionModelWithProjection,
    PreTrainedTokenizerFast,
    UMT5Config,
    UMT5EncoderModel,
)

from loraedit.families.known import KnownModel, known_models

LATENTS = 4


def tiny_vae(temporal: int = 4) -> AutoencoderKLWan:
    """Returns a VAE with 8x and 4x compression in space and time as Wan2.1's, or with nano's 4x and 2x."""
    torch.manual_seed(1)
    wide = temporal == 4
    vae = AutoencoderKLWan(
        base_dim=4,
        z_dim=LATENTS,
        dim_mult=[1, 2, 2, 2] if wide else [2, 2],
        num_res_blocks=1,
        temperal_downsample=[False, True, True] if wide else [True],
        latents_mean=[0.1, -0.2, 0.3, 0.0],
        latents_std=[1.5, 0.7, 1.1, 2.0],
        is_residual=not wide,
        patch_size=None if wide else 2,
        in_channels=3 if wide else 12,
        out_channels=3 if wide else 12,
        scale_factor_spatial=8 if wide else 4,
        scale_factor_temporal=temporal,
    )
    return vae.eval()


def tiny_transformer(temporal: int, image_encoder: bool, seed: int = 2) -> WanTransformer3DModel:
    torch.manual_seed(seed)
    return WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=2 * LATENTS + temporal,
        out_channels=LATENTS,
        text_dim=16,
        freq_dim=16,
        ffn_dim=32,
        num_layers=2,
        image_dim=16 if image_encoder else None,
        added_kv_proj_dim=24 if image_encoder else None,
        rope_max_seq_len=64,
    ).eval()


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    words = {"<pad>": 0, "</s>": 1, "<unk>": 2, "a": 3, "red": 4, "coat": 5}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


def tiny_text_encoder() -> UMT5EncoderModel:
    torch.manual_seed(3)
    config = UMT5Config(vocab_size=8, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, pad_token_id=0)
    return UMT5EncoderModel(config).eval()


def save_tiny_wan(
    folder: Path,
    *,
    temporal: int = 4,
    image_encoder: bool = False,
    two_experts: bool = False,
    euler: bool = False,
) -> Path:
    """Writes a random checkpoint as diffusers itself would."""
    vision = CLIPVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14
    )
    scheduler = (
        FlowMatchEulerDiscreteScheduler(shift=3.0)
        if euler
        else UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    )
    pipeline = WanImageToVideoPipeline(
        tokenizer=tiny_tokenizer(),
        text_encoder=tiny_text_encoder(),
        vae=tiny_vae(temporal),
        scheduler=scheduler,
        image_encoder=CLIPVisionModel(vision).eval() if image_encoder else None,
        image_processor=CLIPImageProcessor(size=28, crop_size=28) if image_encoder else None,
        transformer=tiny_transformer(temporal, image_encoder),
        transformer_2=tiny_transformer(temporal, image_encoder, seed=9) if two_experts else None,
        boundary_ratio=0.9 if two_experts else None,
    )
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder


def save_tiny_clip(folder: Path) -> Path:
    """Writes a random CLIP image encoder as transformers itself would."""
    torch.manual_seed(4)
    config = CLIPVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14,
        projection_dim=8,
    )  # fmt: skip
    CLIPVisionModelWithProjection(config).save_pretrained(folder)
    CLIPImageProcessor(size=28, crop_size=28).save_pretrained(folder)
    return folder


SMALL_TRANSFORMER = {
    "num_attention_heads": 2, "attention_head_dim": 12, "text_dim": 16, "freq_dim": 16, "ffn_dim": 32, "num_layers": 2,
    "rope_max_seq_len": 64,
}  # fmt: skip
SMALL_OPTIONAL = {"image_dim": 16, "added_kv_proj_dim": 24, "pos_embed_seq_len": 10}
"""The image encoder below makes 5 tokens of a picture."""


def small_config(known: KnownModel) -> dict[str, Any]:
    """Returns the published configuration of a Wan-type transformer with small numbers; its channels stay the same."""
    config = known.transformer.config
    return {**config, **SMALL_TRANSFORMER, **{name: size for name, size in SMALL_OPTIONAL.items() if config[name]}}


def distinct_models() -> list[KnownModel]:
    """Returns the published models of the Wan family, one of each small configuration."""
    small = {
        json.dumps([known.pipeline, small_config(known), known.scheduler, known.options]): known
        for known in reversed(known_models())
        if known.family == "wan"
    }
    return list(reversed(small.values()))


def save_tiny_known(folder: Path, known: KnownModel) -> Path:
    """Writes a random checkpoint in the layout of a published Wan-type model."""
    parts: dict[str, Any] = dict.fromkeys(("image_encoder", "image_processor"))
    if known.pipeline == "WanImageToVideoPipeline":
        parts |= {"transformer_2": None, **known.options}
    for seed, name in enumerate(name for name in known.components if name.startswith("transformer")):
        torch.manual_seed(2 + seed)
        parts[name] = getattr(diffusers, known.components[name].kind)(**small_config(known)).eval()
    if "image_encoder" in known.components:
        torch.manual_seed(4)
        parts["image_encoder"] = CLIPVisionModel(
            CLIPVisionConfig(
                hidden_size=16,
                intermediate_size=16,
                num_hidden_layers=2,
                num_attention_heads=2,
                image_size=28,
                patch_size=14,
            )
        ).eval()
        parts["image_processor"] = CLIPImageProcessor(size=28, crop_size=28)
    torch.manual_seed(1)
    published = known.components["vae"].config
    narrow = {name: 4 for name in ("base_dim", "decoder_base_dim") if name in published}
    vae = AutoencoderKLWan(**{**published, **narrow, "dim_mult": [1, 2, 2, 2], "num_res_blocks": 1}).eval()
    kind, config = known.scheduler
    pipeline = getattr(diffusers, known.pipeline)(
        tokenizer=tiny_tokenizer(), text_encoder=tiny_text_encoder(), vae=vae,
        scheduler=getattr(diffusers, kind)(**config), **parts,
    )  # fmt: skip
    pipeline.save_pretrained(folder, safe_serialization=True)
    if known.index_class is not None:
        index = json.loads((folder / "model_index.json").read_text())
        index = {name: value for name, value in index.items() if value != [None, None]}
        (folder / "model_index.json").write_text(json.dumps({**index, "_class_name": known.index_class}))
    return folder
