"""Writes tiny random checkpoints of the trackers of transformers, in their published layouts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers as tf
from tiny import tiny_tokenizer

SIDE = 64
WIDE = 128  # the model needs more channels than the 64 of its memory

_DECODER = {"hidden_size": WIDE, "mlp_dim": 32, "num_attention_heads": 2, "iou_head_hidden_dim": 16}
_MEMORY = {
    "num_maskmem": 3, "max_object_pointers_in_encoder": 4, "memory_attention_hidden_size": WIDE,
    "memory_attention_num_layers": 1, "memory_attention_feed_forward_hidden_size": 32,
    "memory_encoder_hidden_size": WIDE, "memory_encoder_output_channels": 64, "mask_downsampler_embed_dim": WIDE,
    "memory_fuser_embed_dim": WIDE, "memory_fuser_intermediate_dim": 32,
}  # fmt: skip


def tiny_sam2() -> tf.PreTrainedModel:
    backbone = {
        "model_type": "sam2_hiera_det_model", "hidden_size": 8, "num_attention_heads": 1, "image_size": [SIDE, SIDE],
        "window_positional_embedding_background_size": [4, 4], "blocks_per_stage": [1, 1, 2, 1],
        "embed_dim_per_stage": [8, 16, 32, 64], "num_attention_heads_per_stage": [1, 1, 2, 2],
        "window_size_per_stage": [8, 4, 4, 4], "global_attention_blocks": [3],
    }  # fmt: skip
    vision = {
        "model_type": "sam2_vision_model", "backbone_config": backbone, "backbone_channel_list": [64, 32, 16, 8],
        "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]], "fpn_hidden_size": WIDE,
    }  # fmt: skip
    prompts = {"hidden_size": WIDE, "image_size": SIDE, "patch_size": 16, "mask_input_channels": 4}
    config = tf.Sam2VideoConfig(
        vision_config=vision, prompt_encoder_config=prompts, mask_decoder_config=_DECODER, image_size=SIDE,
        memory_attention_rope_feat_sizes=[4, 4], **_MEMORY,
    )  # fmt: skip
    return tf.Sam2VideoModel(config)


def tiny_sam3_tracker() -> tf.PreTrainedModel:
    side = 56
    backbone = {
        "model_type": "sam3_vit_model", "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2,
        "num_attention_heads": 2, "image_size": side, "pretrain_image_size": side, "patch_size": 14,
        "window_size": 2, "global_attn_indexes": [1],
    }  # fmt: skip
    vision = {
        "model_type": "sam3_vision_model", "backbone_config": backbone, "fpn_hidden_size": WIDE,
        "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
    }  # fmt: skip
    prompts = {"hidden_size": WIDE, "image_size": side, "patch_size": 14, "mask_input_channels": 4}
    config = tf.Sam3TrackerVideoConfig(
        vision_config=vision, prompt_encoder_config=prompts, mask_decoder_config=_DECODER, image_size=side,
        memory_attention_rope_feat_sizes=[4, 4], **_MEMORY,
    )  # fmt: skip
    return tf.Sam3TrackerVideoModel(config)


def save_tiny_tracker(model: Any, folder: Path) -> Path:
    """Writes a model with weights large enough for masks that come and go, and which always finds something."""
    torch.manual_seed(5)
    for name, weights in model.named_parameters():
        weights.data = 0.1 * torch.randn_like(weights)
        if "pred_obj_score_head" in name and name.endswith("bias"):
            weights.data += 2.0
        if "norm" in name and name.endswith("weight"):
            weights.data += 1.0
    model.save_pretrained(folder)
    return folder


def tiny_sam3(folder: Path) -> Path:
    """Writes SAM 3 as published (detector, tracker and tokenizer in one folder), which always finds something."""
    tracker = tiny_sam3_tracker().config
    part = {"hidden_size": WIDE, "num_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    detector = {
        "model_type": "sam3",
        "vision_config": tracker.vision_config.to_dict(),
        "text_config": {
            "model_type": "clip_text_model", "vocab_size": 8, "hidden_size": 16, "intermediate_size": 16,
            "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 32, "projection_dim": 16,
            "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1,
        },
        "geometry_encoder_config": part, "detr_encoder_config": part,
        "detr_decoder_config": {**part, "num_queries": 3},
        "mask_decoder_config": {"hidden_size": WIDE, "num_attention_heads": 2},
    }  # fmt: skip
    torch.manual_seed(5)
    config = tf.Sam3VideoConfig(
        detector_config=detector, tracker_config=tracker.to_dict(), low_res_mask_size=16,
        score_threshold_detection=0.0, new_det_thresh=0.0, hotstart_delay=2, hotstart_unmatch_thresh=1,
        hotstart_dup_thresh=1, max_num_objects=4,
    )  # fmt: skip
    model = tf.Sam3VideoModel(config)
    for weights in model.parameters():
        weights.data += 0.05 * torch.randn_like(weights)
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def tiny_edgetam() -> tf.PreTrainedModel:
    backbone = tf.TimmWrapperConfig(
        architecture="test_convnext2", do_pooling=False,
        model_args={"in_chans": 3, "features_only": True, "out_indices": [0, 1, 2, 3]},
    )  # fmt: skip
    vision = {
        "model_type": "edgetam_vision_model", "backbone_config": backbone, "fpn_hidden_size": WIDE,
        "backbone_channel_list": [128, 96, 64, 32], "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
    }  # fmt: skip
    prompts = {"hidden_size": WIDE, "image_size": SIDE, "patch_size": 16, "mask_input_channels": 4}
    memory = {name.replace("feed_forward_hidden", "mlp_hidden"): value for name, value in _MEMORY.items()}
    config = tf.EdgeTamVideoConfig(
        vision_config=vision, prompt_encoder_config=prompts, mask_decoder_config=_DECODER, image_size=SIDE,
        memory_attention_rope_feat_sizes=[4, 4], memory_attention_rope_k_sizes=[4, 4], perceiver_resampler_num_layers=1,
        perceiver_resampler_num_latents=16, perceiver_resampler_num_latents_2d=16,
        perceiver_resampler_mlp_intermediate_size=32, **memory,
    )  # fmt: skip
    return tf.EdgeTamVideoModel(config)
