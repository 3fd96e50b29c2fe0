"""From a checkpoint's configuration to its card, for the families of :mod:`loraedit.families.one_mask`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from loraedit.errors import ModelError
from loraedit.families.folder import lora_rank, read_card_file, read_json
from loraedit.families.model_card import CardFile, ModelCard, prior_file
from loraedit.families.one_mask_layout import HUNYUAN, HUNYUAN_15, LTX, LTX_2, OneMaskLayout
from loraedit.settings import Recipe

__all__ = ["ONE_MASK_CARDS"]

FAR = 4096
"""More positions than any clip has: these models compute their position codes as far as they are needed."""


def _hunyuan_card(folder: Path, _index: dict[str, Any]) -> ModelCard:
    config, vae = _configs(folder)
    kind, channels, latents = str(config["image_condition_type"]), config["in_channels"], int(vae["latent_channels"])
    if channels != {"latent_concat": 2 * latents + 1, "token_replace": latents}.get(kind):
        raise ModelError(
            f"'{folder / 'transformer'}' takes {channels} channels with image_condition_type {kind}. Expected "
            f"{2 * latents + 1} with latent_concat, or {latents} with token_replace: it is not an image-to-video "
            "transformer."
        )
    return _card(
        folder,
        pipeline="HunyuanVideoImageToVideoPipeline",
        spatial=int(vae["spatial_compression_ratio"]),
        temporal=int(vae["temporal_compression_ratio"]),
        patch=int(config["patch_size"]),
        latent_channels=latents,
        mask="tokens" if kind == "token_replace" else "channels",
        embeds_guidance=bool(config["guidance_embeds"]),
        encoders=("text_encoder", "text_encoder_2"),
        settings=CardFile(
            area_px=960 * 544, text_tokens=256, recipe=Recipe(guidance=6.0 if config["guidance_embeds"] else 1.0)
        ),
    )


def _hunyuan15_card(folder: Path, _index: dict[str, Any]) -> ModelCard:
    config, vae = _configs(folder)
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
    guidance = read_json(folder, "guider/guider_config.json")["guidance_scale"]
    return _card(
        folder,
        pipeline="HunyuanVideo15ImageToVideoPipeline",
        spatial=int(vae["spatial_compression_ratio"]),
        temporal=int(vae["temporal_compression_ratio"]),
        patch=int(config["patch_size"]),
        latent_channels=latents,
        encoders=("text_encoder", "text_encoder_2", "image_encoder"),
        settings=CardFile(area_px=config["target_size"] ** 2, text_tokens=1000, recipe=Recipe(guidance=guidance)),
    )


def _ltx_card(folder: Path, _index: dict[str, Any]) -> ModelCard:
    if read_json(folder, "scheduler/scheduler_config.json").get("use_dynamic_shifting"):
        raise ModelError(f"'{folder}' is an LTX-Video from before 0.9.5, which knows no conditions. Use a later one.")
    settings = CardFile(area_px=704 * 512, text_tokens=256, recipe=Recipe(guidance=3.0))
    return _ltx(folder, pipeline="LTXConditionPipeline", encoders=("text_encoder",), settings=settings)


def _ltx2_card(folder: Path, _index: dict[str, Any]) -> ModelCard:
    settings = CardFile(area_px=768 * 512, text_tokens=1024, recipe=Recipe(guidance=3.0))
    encoders = ("text_encoder", "connectors")
    return _ltx(folder, pipeline="LTX2ConditionPipeline", encoders=encoders, settings=settings)


def _ltx(folder: Path, **values: Any) -> ModelCard:
    config, vae = _configs(folder)
    halvings = sum(vae["spatio_temporal_scaling"])
    return _card(
        folder,
        spatial=int(vae.get("spatial_compression_ratio") or vae["patch_size"] * 2**halvings),
        temporal=int(vae.get("temporal_compression_ratio") or vae["patch_size_t"] * 2**halvings),
        patch=int(config["patch_size"]),
        latent_channels=int(vae["latent_channels"]),
        mask="tokens",
        **values,
    )


def _configs(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Of the transformer and of the VAE; the scheduler's is looked at too."""
    read_json(folder, "scheduler/scheduler_config.json")
    return read_json(folder, "transformer/config.json"), read_json(folder, "vae/config.json")


def _card(
    folder: Path,
    *,
    spatial: int,
    temporal: int,
    patch: int,
    encoders: tuple[str, ...],
    settings: CardFile,
    **values: Any,
) -> ModelCard:
    return ModelCard(
        folder=folder,
        spatial=spatial,
        temporal=temporal,
        multiple_px=spatial * patch,
        frame_step=temporal,
        experts=("transformer",),
        boundary=0.0,
        components=("transformer", "vae", *encoders),
        image_frames=1 if "image_encoder" in encoders else 0,
        max_positions=FAR,
        settings=read_card_file(folder, settings),
        prior_rank=lora_rank(prior_file(folder, "transformer")),
        **values,
    )


ONE_MASK_CARDS: dict[str, tuple[Callable[[Path, dict[str, Any]], ModelCard], OneMaskLayout]] = {
    "HunyuanVideoImageToVideoPipeline": (_hunyuan_card, HUNYUAN),
    "HunyuanVideo15ImageToVideoPipeline": (_hunyuan15_card, HUNYUAN_15),
    # The same parts make each of a kind, and LTX-Video 0.9.5 and LTX-2 are published under their text-to-video class.
    **dict.fromkeys(("LTXPipeline", "LTXImageToVideoPipeline", "LTXConditionPipeline"), (_ltx_card, LTX)),
    **dict.fromkeys(("LTX2Pipeline", "LTX2ImageToVideoPipeline", "LTX2ConditionPipeline"), (_ltx2_card, LTX_2)),
}
"""By the pipeline that ``model_index.json`` names."""
