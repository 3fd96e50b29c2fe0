"""What the layers that a LoRA can change are called: by diffusers, and by each model's own code.

Everything in loraedit speaks of layers by diffusers' names. ComfyUI, musubi-tuner and DiffSynth use the models' own
names ("native" here). Blocks of LTX are called the same in both worlds, so a name that no table holds stands for
itself. HunyuanVideo's own code makes one layer of several, so its table goes from one name to many.
"""

from __future__ import annotations

import re

__all__ = [
    "HUNYUAN_LAYERS",
    "WAN_BLOCK",
    "WAN_LINEARS",
    "WAN_REST",
    "diffusers_name",
    "is_optional",
    "native_name",
    "numbered",
    "spread_flat_name",
    "unnumbered",
]

WAN_LINEARS = {
    "attn1.to_q": "self_attn.q", "attn1.to_k": "self_attn.k", "attn1.to_v": "self_attn.v",
    "attn1.to_out.0": "self_attn.o", "attn2.to_q": "cross_attn.q", "attn2.to_k": "cross_attn.k",
    "attn2.to_v": "cross_attn.v", "attn2.to_out.0": "cross_attn.o", "ffn.net.0.proj": "ffn.0", "ffn.net.2": "ffn.2",
}  # fmt: skip
"""Linear layers of a Wan block that every relative has: diffusers' name and Wan's own."""

WAN_BLOCK = {
    **WAN_LINEARS,
    "attn2.add_k_proj": "cross_attn.k_img", "attn2.add_v_proj": "cross_attn.v_img",
    "attn1.norm_q": "self_attn.norm_q", "attn1.norm_k": "self_attn.norm_k",
    "attn2.norm_q": "cross_attn.norm_q", "attn2.norm_k": "cross_attn.norm_k",
    "attn2.norm_added_k": "cross_attn.norm_k_img", "norm2": "norm3",
}  # fmt: skip
"""Every layer of a Wan block, in the same way."""

WAN_REST = {
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
"""And those outside the blocks."""

_LTX = {
    "proj_in": "patchify_proj", "time_embed": "adaln_single", "audio_proj_in": "audio_patchify_proj",
    "audio_time_embed": "audio_adaln_single", "av_cross_attn_video_scale_shift": "av_ca_video_scale_shift_adaln_single",
    "av_cross_attn_audio_scale_shift": "av_ca_audio_scale_shift_adaln_single",
    "av_cross_attn_video_a2v_gate": "av_ca_a2v_gate_adaln_single",
    "av_cross_attn_audio_v2a_gate": "av_ca_v2a_gate_adaln_single",
}  # fmt: skip
"""Of LTX's layers outside the blocks, the first part of the name."""

_DOUBLE = {
    "img_attn_proj": "attn.to_out.0", "txt_attn_proj": "attn.to_add_out", "img_mod.linear": "norm1.linear",
    "txt_mod.linear": "norm1_context.linear", "img_mlp.fc1": "ff.net.0.proj", "img_mlp.fc2": "ff.net.2",
    "txt_mlp.fc1": "ff_context.net.0.proj", "txt_mlp.fc2": "ff_context.net.2",
    **{f"img_attn_{letter}": f"attn.to_{letter}" for letter in "qkv"},
    **{f"txt_attn_{letter}": f"attn.add_{letter}_proj" for letter in "qkv"},
}  # fmt: skip
_QKV = tuple(f"attn.to_{letter}" for letter in "qkv")
_FUSED = {
    "double_blocks.#.img_attn_qkv": tuple(f"transformer_blocks.#.{name}" for name in _QKV),
    "double_blocks.#.txt_attn_qkv": tuple(f"transformer_blocks.#.attn.add_{letter}_proj" for letter in "qkv"),
    "single_blocks.#.linear1": tuple(f"single_transformer_blocks.#.{name}" for name in (*_QKV, "proj_mlp")),
}
HUNYUAN_LAYERS: dict[str, tuple[str, ...]] = {
    **_FUSED,
    "single_blocks.#.linear2": ("single_transformer_blocks.#.proj_out",),
    "single_blocks.#.modulation.linear": ("single_transformer_blocks.#.norm.linear",),
    **{f"double_blocks.#.{theirs}": (f"transformer_blocks.#.{ours}",) for theirs, ours in _DOUBLE.items()},
}
"""Layers of HunyuanVideo's blocks by its own names, and the layers of diffusers that each of them is.

HunyuanVideo has one layer for queries, keys and values, and in single blocks for the MLP too; HunyuanVideo-1.5 has them
apart. What stands first here is taken for a layer that both could be.
"""

_COMFYUI = {
    "_attn.qkv": "_attn_qkv", "_attn.proj": "_attn_proj", "_mlp.0": "_mlp.fc1", "_mlp.2": "_mlp.fc2",
    "_mod.lin": "_mod.linear", ".modulation.lin": ".modulation.linear",
}  # fmt: skip
"""How ComfyUI's own model ends the same names."""

_TO_NATIVE = {**{f"blocks.#.{ours}": f"blocks.#.{theirs}" for ours, theirs in WAN_BLOCK.items()}, **WAN_REST, **_LTX}
_TO_DIFFUSERS = {theirs: ours for ours, theirs in _TO_NATIVE.items()}
_FROM_FLAT = {name.replace(".", "_"): name for name in (*_TO_NATIVE, *_TO_DIFFUSERS, *HUNYUAN_LAYERS)}
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
    return name if name is None or number is None else numbered(name, number[0])


def unnumbered(layer: str) -> tuple[str, str]:
    """``double_blocks.3.img_attn.proj`` -> ``double_blocks.#.img_attn_proj`` and ``3``; without a block, as it is."""
    number = re.match(r"\w*blocks\.(\d+)\.", layer)
    if number is None:
        return layer, ""
    name = f"{layer[: number.start(1)]}#{layer[number.end(1) :]}"
    if name.startswith(("double_blocks.", "single_blocks.")):
        name = next((name.removesuffix(end) + ours for end, ours in _COMFYUI.items() if name.endswith(end)), name)
    return name, number[1]


def numbered(name: str, number: str) -> str:
    """``double_blocks.#.img_attn_proj`` and ``3`` -> ``double_blocks.3.img_attn_proj``."""
    return name.replace("#", number)


def is_optional(layer: str) -> bool:
    """Whether LoRAs of sister models have this layer beyond, or in another size than, the model they are used on.

    A Wan2.1 I2V LoRA has an image branch, which Wan2.2 lacks; a text-to-video LoRA has a narrower first layer.
    """
    return _OPTIONAL.search(layer) is not None


def _translate(layer: str, table: dict[str, str]) -> str:
    name, number = unnumbered(layer)
    if name in table:
        return numbered(table[name], number)
    first, dot, rest = layer.partition(".")
    return f"{table[first]}{dot}{rest}" if first in table else layer
