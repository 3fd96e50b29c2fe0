"""The record of LTX-2."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from loraedit.families.folder import Shapes
from loraedit.families.keep_channel_card import without_single_files
from loraedit.families.ltx.record import ltx_card, ltx_shapes
from loraedit.families.model_card import ModelCard
from loraedit.families.record import FamilyRecord, LayerNames
from loraedit.families.transformer_layout import COMMON_COMPONENTS, Config, TransformerLayout

if TYPE_CHECKING:
    from loraedit.families.base import Family

__all__ = ["LTX_2"]


def _open(card: ModelCard) -> Family:
    from loraedit.families.ltx2.family import Ltx2Family

    return Ltx2Family(card)


def _read_card(folder: Path) -> ModelCard:
    return ltx_card(folder, "Lightricks/LTX-2", "LTX2ConditionPipeline", ("text_encoder", "connectors"))


def _shapes(config: Config) -> Shapes:
    sound = config["audio_num_attention_heads"] * config["audio_attention_head_dim"]
    return {**ltx_shapes(config), "audio_proj_in.weight": (sound, config["audio_in_channels"])}


LTX_2 = FamilyRecord(
    name="ltx2",
    # One set of components serves all three, and LTX-2 is published under the text-to-video class.
    pipelines=("LTX2Pipeline", "LTX2ImageToVideoPipeline", "LTX2ConditionPipeline"),
    open=_open,
    read_card=without_single_files(_read_card),
    components={
        **COMMON_COMPONENTS,
        "transformer": r"diffusers\.LTX2VideoTransformer3DModel",
        "vae": r"diffusers\.AutoencoderKLLTX2Video",
        "text_encoder": r"transformers\.Gemma3\w+",
        "connectors": r"ltx2\.LTX2TextConnectors",
        "vocoder": r"ltx2\.LTX2Vocoder",  # never loaded
    },
    check_transformer=TransformerLayout({"transformer_blocks": "num_layers"}, _shapes).check,
    libraries={"ltx2": "diffusers.pipelines.ltx2"},
    layer_names=LayerNames(
        native={
            "audio_proj_in": "audio_patchify_proj",
            "audio_time_embed": "audio_adaln_single",
            "av_cross_attn_video_scale_shift": "av_ca_video_scale_shift_adaln_single",
            "av_cross_attn_audio_scale_shift": "av_ca_audio_scale_shift_adaln_single",
            "av_cross_attn_video_a2v_gate": "av_ca_a2v_gate_adaln_single",
            "av_cross_attn_audio_v2a_gate": "av_ca_v2a_gate_adaln_single",
        }
    ),
)
