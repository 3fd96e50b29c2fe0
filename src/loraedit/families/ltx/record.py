"""The record of LTX-Video, from version 0.9.5 on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from loraedit.errors import ModelError
from loraedit.families.folder import Shapes, read_json
from loraedit.families.keep_channel_card import build_card, read_configs, without_single_files
from loraedit.families.known import usual_settings
from loraedit.families.model_card import ModelCard
from loraedit.families.record import FamilyRecord, LayerNames
from loraedit.families.transformer_layout import COMMON_COMPONENTS, Config, TransformerLayout, width

if TYPE_CHECKING:
    from loraedit.families.base import Family

__all__ = ["LTX", "ltx_card", "ltx_shapes"]


def _open(card: ModelCard) -> Family:
    from loraedit.families.ltx.family import LtxFamily

    return LtxFamily(card)


def _read_card(folder: Path) -> ModelCard:
    if read_json(folder, "scheduler/scheduler_config.json").get("use_dynamic_shifting"):
        raise ModelError(f"'{folder}' is an LTX-Video from before 0.9.5, which knows no conditions. Use a later one.")
    return ltx_card(folder, "Lightricks/LTX-Video-0.9.5", "LTXConditionPipeline", ("text_encoder",))


def ltx_card(folder: Path, like: str, pipeline: str, encoders: tuple[str, ...]) -> ModelCard:
    """Builds the card of an LTX-Video or LTX-2 checkpoint.

    Args:
        like: the published model that it resembles; see :func:`usual_settings`.
        pipeline: its pipeline class.
        encoders: components that read prompts.
    """
    config, vae = read_configs(folder)
    halvings = sum(vae["spatio_temporal_scaling"])
    return build_card(
        folder,
        spatial=int(vae.get("spatial_compression_ratio") or vae["patch_size"] * 2**halvings),
        temporal=int(vae.get("temporal_compression_ratio") or vae["patch_size_t"] * 2**halvings),
        patch=int(config["patch_size"]),
        latent_channels=int(vae["latent_channels"]),
        mask="tokens",
        reads_frame_rate=True,
        pipeline=pipeline,
        encoders=encoders,
        settings=usual_settings(like, pipeline, config, folder),
    )


def ltx_shapes(config: Config) -> Shapes:
    """Returns the shapes that LTX-Video and LTX-2 have in common."""
    dim = width(config)
    return {
        "proj_in.weight": (dim, config["in_channels"]),
        "transformer_blocks.0.attn2.to_k.weight": (dim, config["cross_attention_dim"]),
        "proj_out.weight": (config["out_channels"], dim),
    }


LTX = FamilyRecord(
    name="ltx",
    # One set of components serves all three, and 0.9.5 is published under the text-to-video class.
    pipelines=("LTXPipeline", "LTXImageToVideoPipeline", "LTXConditionPipeline"),
    open=_open,
    read_card=without_single_files(_read_card),
    components={
        **COMMON_COMPONENTS,
        "transformer": r"diffusers\.LTXVideoTransformer3DModel",
        "vae": r"diffusers\.AutoencoderKLLTXVideo",
        "text_encoder": r"transformers\.T5EncoderModel",
    },
    check_transformer=TransformerLayout({"transformer_blocks": "num_layers"}, ltx_shapes).check,
    layer_names=LayerNames(native={"proj_in": "patchify_proj", "time_embed": "adaln_single"}),
)
