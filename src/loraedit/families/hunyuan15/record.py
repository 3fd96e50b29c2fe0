"""The record of HunyuanVideo-1.5 image-to-video. Its layer names are in HunyuanVideo's record."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from loraedit.errors import ModelError
from loraedit.families.folder import Shapes, read_json
from loraedit.families.hunyuan.record import shared_shapes
from loraedit.families.keep_channel_card import build_card, read_configs, without_single_files
from loraedit.families.known import usual_settings
from loraedit.families.model_card import CardFile, ModelCard
from loraedit.families.record import FamilyRecord
from loraedit.families.transformer_layout import COMMON_COMPONENTS, Config, TransformerLayout, width

if TYPE_CHECKING:
    from loraedit.families.base import Family

__all__ = ["HUNYUAN_15"]

LIKE = "hunyuanvideo-community/HunyuanVideo-1.5-Diffusers-480p_i2v"
GUIDER = "guider/guider_config.json"


def _open(card: ModelCard) -> Family:
    from loraedit.families.hunyuan15.family import Hunyuan15Family

    return Hunyuan15Family(card)


def _read_card(folder: Path) -> ModelCard:
    config, vae = read_configs(folder)
    latents = int(vae["latent_channels"])
    if config["in_channels"] != 2 * latents + 1:
        raise ModelError(
            f"'{folder / 'transformer'}' takes {config['in_channels']} channels, not {2 * latents + 1} "
            f"(noise {latents}, condition {latents}, mask 1): it is not an image-to-video transformer."
        )
    if config.get("use_meanflow"):
        raise ModelError(
            f"'{folder / 'transformer'}' is distilled to few steps (use_meanflow): it reads two timesteps at once and "
            "cannot be trained by flow matching. Use the checkpoint that it was distilled from."
        )
    return build_card(
        folder,
        pipeline=HUNYUAN_15.pipelines[0],
        spatial=int(vae["spatial_compression_ratio"]),
        temporal=int(vae["temporal_compression_ratio"]),
        patch=int(config["patch_size"]),
        latent_channels=latents,
        encoders=("text_encoder", "text_encoder_2", "image_encoder"),
        settings=_settings(folder, config),
    )


def _settings(folder: Path, config: Config) -> CardFile:
    """Returns the published settings, with the size and the guidance that the checkpoint itself states."""
    published = usual_settings(LIKE, HUNYUAN_15.pipelines[0], config, folder)
    own: dict[str, Any] = {"area_px": config["target_size"] ** 2}
    if (folder / GUIDER).exists():
        own["recipe"] = {"guidance": read_json(folder, GUIDER)["guidance_scale"]}
    return CardFile.model_validate(own).over(published)


def _shapes(config: Config) -> Shapes:
    return {
        **shared_shapes(config),
        "context_embedder_2.norm.weight": (config["text_embed_2_dim"],),
        "image_embedder.linear_2.weight": (width(config), config["image_embed_dim"]),
    }


HUNYUAN_15 = FamilyRecord(
    name="hunyuan15",
    pipelines=("HunyuanVideo15ImageToVideoPipeline",),
    open=_open,
    read_card=without_single_files(_read_card),
    components={
        **COMMON_COMPONENTS,
        "transformer": r"diffusers\.HunyuanVideo15Transformer3DModel",
        "vae": r"diffusers\.AutoencoderKLHunyuanVideo15",
        "text_encoder": r"transformers\.Qwen2_5_VL\w+",
        "text_encoder_2": r"transformers\.T5EncoderModel",
        "image_encoder": r"transformers\.Siglip\w+",
        "feature_extractor": r"transformers\.Siglip\w*Processor\w*",
        "guider": r"diffusers\.\w+Guidance",
    },
    check_transformer=TransformerLayout(
        {"transformer_blocks": "num_layers", "context_embedder.token_refiner.refiner_blocks": "num_refiner_layers"},
        _shapes,
    ).check,
)
