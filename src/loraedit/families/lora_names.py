"""What the layers that a LoRA can change are called: by diffusers, and by each model's own code.

Everything in loraedit speaks of layers by diffusers' names. ComfyUI, musubi-tuner and DiffSynth use the models' own
names ("native" here). LTX-Video's are the same in both worlds, so a name that no table holds stands for itself.
"""

from __future__ import annotations

import re

__all__ = ["WAN_LINEARS", "diffusers_name", "is_optional", "native_name", "spread_flat_name"]

WAN_LINEARS = {
    "attn1.to_q": "self_attn.q", "attn1.to_k": "self_attn.k", "attn1.to_v": "self_attn.v",
    "attn1.to_out.0": "self_attn.o", "attn2.to_q": "cross_attn.q", "attn2.to_k": "cross_attn.k",
    "attn2.to_v": "cross_attn.v", "attn2.to_out.0": "cross_attn.o", "ffn.net.0.proj": "ffn.0", "ffn.net.2": "ffn.2",
}  # fmt: skip
"""Linear layers of a Wan block that every relative has: diffusers' name and Wan's own."""

_WAN_BLOCK = {
    **WAN_LINEARS,
    "attn2.add_k_proj": "cross_attn.k_img", "attn2.add_v_proj": "cross_attn.v_img",
    "attn1.norm_q": "self_attn.norm_q", "attn1.norm_k": "self_attn.norm_k",
    "attn2.norm_q": "cross_attn.norm_q", "attn2.norm_k": "cross_attn.norm_k",
    "attn2.norm_added_k": "cross_attn.norm_k_img", "norm2": "norm3",
}  # fmt: skip
_WAN_REST = {
    "patch_embedding": "patch_embedding", "proj_out": "head.head",
    "condition_embedder.time_embedder.linear_1": "time_embedding.0",
    "condition_embedder.time_embedder.linear_2": "time_embedding.2",
    "condition_embedder.time_proj": "time_projection.1",
    "condition_embedder.text_embedder.linear_1": "text_embedding.0",
    "condition_embedder.text_embedder.linear_2": "text_embedding.2",
    "condition_embedder.image_embedder.norm1": "img_emb.proj.0",
    "condition_embedder.image_embedder.ff.net.0.proj": "img_emb.proj.1",
    "condition_embedder.image_embedder.ff.net.2": "img_emb.proj.3",
    "condition_embedder.image_embedder.norm2": "img_emb.proj.4",
}  # fmt: skip
_HUNYUAN = {
    "double_blocks": [
        f"{side}_{part}" for side in ("img", "txt")
        for part in ("attn_qkv", "attn_proj", "mod.linear", "mlp.fc1", "mlp.fc2")
    ],
    "single_blocks": ["linear1", "linear2", "modulation.linear"],
}  # fmt: skip

_TO_NATIVE = {**{f"blocks.#.{ours}": f"blocks.#.{theirs}" for ours, theirs in _WAN_BLOCK.items()}, **_WAN_REST}
_TO_DIFFUSERS = {theirs: ours for ours, theirs in _TO_NATIVE.items()}
_FROM_FLAT = {
    name.replace(".", "_"): name
    for name in (
        *_TO_NATIVE, *_TO_DIFFUSERS, *(f"{kind}.#.{layer}" for kind, layers in _HUNYUAN.items() for layer in layers)
    )
}  # fmt: skip
_OPTIONAL = re.compile(r"attn2\.(add_[kv]_proj|norm_added_k)|condition_embedder\.image_embedder\.|^patch_embedding$")


def native_name(layer: str) -> str:
    """``blocks.3.attn1.to_q`` -> ``blocks.3.self_attn.q``."""
    return _translate(layer, _TO_NATIVE)


def diffusers_name(layer: str) -> str:
    """``blocks.3.self_attn.q`` -> ``blocks.3.attn1.to_q``."""
    return _translate(layer, _TO_DIFFUSERS)


def spread_flat_name(flat: str) -> str | None:
    """``blocks_3_self_attn_q``, as kohya's tools write it -> ``blocks.3.self_attn.q``; None if no table holds it."""
    number = re.search(r"(?<=blocks_)\d+", flat)
    pattern = flat if number is None else f"{flat[: number.start()]}#{flat[number.end() :]}"
    name = _FROM_FLAT.get(pattern)
    return name if name is None or number is None else name.replace("#", number[0])


def is_optional(layer: str) -> bool:
    """Whether LoRAs of sister models have this layer beyond, or in another size than, the model they are used on.

    A Wan2.1 I2V LoRA has an image branch, which Wan2.2 lacks; a text-to-video LoRA has a narrower first layer.
    """
    return _OPTIONAL.search(layer) is not None


def _translate(layer: str, table: dict[str, str]) -> str:
    number = re.match(r"blocks\.(\d+)\.", layer)
    if number is None:
        return table.get(layer, layer)
    known = table.get(f"blocks.#.{layer[number.end() :]}")
    return layer if known is None else known.replace("#", number[1])
