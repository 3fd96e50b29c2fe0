"""The record of HunyuanVideo image-to-video, with 33 and with 16 input channels."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from loraedit.errors import ModelError
from loraedit.families.folder import Shapes
from loraedit.families.hunyuan.layer_names import LAYER_NAMES
from loraedit.families.keep_channel_card import build_card, read_configs, without_single_files
from loraedit.families.known import usual_settings
from loraedit.families.model_card import ModelCard
from loraedit.families.record import FamilyRecord
from loraedit.families.transformer_layout import COMMON_COMPONENTS, Config, TransformerLayout, patch_size, width

if TYPE_CHECKING:
    from loraedit.families.base import Family

__all__ = ["HUNYUAN", "shared_shapes"]


def _open(card: ModelCard) -> Family:
    from loraedit.families.hunyuan.family import HunyuanFamily

    return HunyuanFamily(card)


def _read_card(folder: Path) -> ModelCard:
    config, vae = read_configs(folder)
    kind, channels, latents = str(config["image_condition_type"]), config["in_channels"], int(vae["latent_channels"])
    if channels != {"latent_concat": 2 * latents + 1, "token_replace": latents}.get(kind):
        raise ModelError(
            f"'{folder / 'transformer'}' takes {channels} channels with image_condition_type {kind}. Expected "
            f"{2 * latents + 1} with latent_concat, or {latents} with token_replace: it is not an image-to-video "
            "transformer."
        )
    pipeline = HUNYUAN.pipelines[0]
    like = f"hunyuanvideo-community/HunyuanVideo-I2V{'' if config['guidance_embeds'] else '-33ch'}"
    return build_card(
        folder,
        pipeline=pipeline,
        spatial=int(vae["spatial_compression_ratio"]),
        temporal=int(vae["temporal_compression_ratio"]),
        patch=int(config["patch_size"]),
        latent_channels=latents,
        mask="tokens" if kind == "token_replace" else "channels",
        embeds_guidance=bool(config["guidance_embeds"]),
        encoders=("text_encoder", "text_encoder_2"),
        settings=usual_settings(like, pipeline, config, folder),
    )


def shared_shapes(config: Config) -> Shapes:
    """Returns the shapes that HunyuanVideo and HunyuanVideo-1.5 have in common."""
    dim, patch = width(config), patch_size(config)
    return {
        "x_embedder.proj.weight": (dim, config["in_channels"], *patch),
        "context_embedder.proj_in.weight": (dim, config["text_embed_dim"]),
        "transformer_blocks.0.ff.net.0.proj.weight": (int(dim * config["mlp_ratio"]), dim),
        "proj_out.weight": (config["out_channels"] * math.prod(patch), dim),
    }


def _shapes(config: Config) -> Shapes:
    dim = width(config)
    guided = {"time_text_embed.guidance_embedder.linear_2.weight": (dim, dim)} if config["guidance_embeds"] else {}
    pooled = {"time_text_embed.text_embedder.linear_1.weight": (dim, config["pooled_projection_dim"])}
    return {**shared_shapes(config), **pooled, **guided}


HUNYUAN = FamilyRecord(
    name="hunyuan",
    pipelines=("HunyuanVideoImageToVideoPipeline",),
    open=_open,
    read_card=without_single_files(_read_card),
    components={
        **COMMON_COMPONENTS,
        "transformer": r"diffusers\.HunyuanVideoTransformer3DModel",
        "vae": r"diffusers\.AutoencoderKLHunyuanVideo",
        "text_encoder": r"transformers\.Llava\w+",
        "text_encoder_2": r"transformers\.CLIPText\w+",
        "image_processor": r"transformers\.CLIP\w*Processor\w*",
    },
    check_transformer=TransformerLayout(
        {
            "transformer_blocks": "num_layers",
            "single_transformer_blocks": "num_single_layers",
            "context_embedder.token_refiner.refiner_blocks": "num_refiner_layers",
        },
        _shapes,
    ).check,
    block_counts=("num_layers", "num_single_layers"),
    layer_names=LAYER_NAMES,
)
