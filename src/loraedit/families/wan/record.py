"""The record of the Wan family: Wan2.1 and 2.2 image-to-video, first-last-frame, Fun-InP, SkyReels-V2."""

from __future__ import annotations

from typing import TYPE_CHECKING

from loraedit.families.model_card import ModelCard
from loraedit.families.record import FamilyRecord, LayerNames
from loraedit.families.wan.card import check_wan_transformer, read_wan_card
from loraedit.families.wan.tensors import WAN_BLOCK, WAN_REST

if TYPE_CHECKING:
    from loraedit.families.base import Family

__all__ = ["WAN"]


def _open(card: ModelCard) -> Family:
    from loraedit.families.wan.family import WanFamily

    return WanFamily(card)


WAN = FamilyRecord(
    name="wan",
    # Wan2.2-TI2V-5B is published under its text-to-video class.
    pipelines=("WanImageToVideoPipeline", "WanPipeline", "SkyReelsV2ImageToVideoPipeline"),
    open=_open,
    read_card=read_wan_card,
    components={
        "transformer": r"diffusers\.(Wan|SkyReelsV2)Transformer3DModel",
        "transformer_2": r"diffusers\.WanTransformer3DModel",
        "vae": r"diffusers\.AutoencoderKLWan",
        "text_encoder": r"transformers\.(UM)?T5EncoderModel",
        "image_encoder": r"transformers\.CLIPVisionModel(WithProjection)?",
        "image_processor": r"transformers\.CLIP\w*Processor\w*",
        "tokenizer": r"transformers\.\w*Tokeniz\w*",
        "scheduler": r"diffusers\.\w+Scheduler",
    },
    check_transformer=check_wan_transformer,
    distilled_sampling={"scheduler": "euler", "flow_shift": 5.0},  # Lightning and lightx2v, for every size
    layer_names=LayerNames(
        native={**{f"blocks.#.{ours}": f"blocks.#.{theirs}" for ours, theirs in WAN_BLOCK.items()}, **WAN_REST},
        # A Wan2.1 I2V LoRA has an image branch, which Wan2.2 lacks; a text-to-video LoRA has a narrower first layer.
        optional=r"attn2\.(add_[kv]_proj|norm_added_k)|condition_embedder\.image_embedder\.|^patch_embedding$",
    ),
)
