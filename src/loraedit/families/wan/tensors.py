"""The tensors of a Wan transformer: native names, diffusers' names and shapes. Only headers are needed."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from loraedit.errors import ModelError
from loraedit.families.file_kinds import SCALES
from loraedit.families.folder import Shapes

__all__ = [
    "BLOCK_NAMES",
    "TOP_NAMES",
    "WAN_BLOCK",
    "WAN_LINEARS",
    "WAN_REST",
    "check_shapes",
    "config_of",
    "native_name",
    "tensor_name",
]

WAN_LINEARS = {
    "attn1.to_q": "self_attn.q", "attn1.to_k": "self_attn.k", "attn1.to_v": "self_attn.v",
    "attn1.to_out.0": "self_attn.o", "attn2.to_q": "cross_attn.q", "attn2.to_k": "cross_attn.k",
    "attn2.to_v": "cross_attn.v", "attn2.to_out.0": "cross_attn.o", "ffn.net.0.proj": "ffn.0", "ffn.net.2": "ffn.2",
}  # fmt: skip
"""Linear layers that the blocks of all Wan models have: native name by diffusers' name."""

WAN_BLOCK = {
    **WAN_LINEARS,
    "attn2.add_k_proj": "cross_attn.k_img", "attn2.add_v_proj": "cross_attn.v_img",
    "attn1.norm_q": "self_attn.norm_q", "attn1.norm_k": "self_attn.norm_k",
    "attn2.norm_q": "cross_attn.norm_q", "attn2.norm_k": "cross_attn.norm_k",
    "attn2.norm_added_k": "cross_attn.norm_k_img", "norm2": "norm3",
}  # fmt: skip
"""All layers of a Wan block, in the same form."""

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
"""All layers outside the blocks, in the same form."""
BLOCK_NAMES = {**WAN_BLOCK, "scale_shift_table": "modulation"}
TOP_NAMES = {
    **WAN_REST,
    "scale_shift_table": "head.modulation",
    "condition_embedder.image_embedder.pos_embed": "img_emb.emb_pos",
}
TO_DIFFUSERS = {native: name for name, native in TOP_NAMES.items()}
BLOCK_TO_DIFFUSERS = {native: name for name, native in BLOCK_NAMES.items()}

IGNORED = ("scaled_fp8", ".scale_input", ".input_scale", ".comfy_quant", *SCALES)


def native_name(layer: str) -> str:
    """``blocks.3.attn1.to_q`` -> ``blocks.3.self_attn.q``."""
    block = re.match(r"blocks\.\d+\.", layer)
    if block is None:
        return WAN_REST.get(layer, layer)
    name = layer[block.end() :]
    return f"{block[0]}{WAN_BLOCK.get(name, name)}"


def tensor_name(name: str) -> str | None:
    """Returns diffusers' name of a tensor, or None for a factor of an fp8 weight.

    Args:
        name: the native name or diffusers' name, with or without ComfyUI's prefix.
    """
    name = re.sub(r"^(model\.)?diffusion_model\.", "", name)
    if name.endswith(IGNORED) or ".norm_added_q." in name:
        return None
    block = re.match(r"blocks\.\d+\.", name)
    start, table = (block[0], BLOCK_TO_DIFFUSERS) if block else ("", TO_DIFFUSERS)
    module, dot, leaf = name[len(start) :].rpartition(".")
    if dot and leaf in ("weight", "bias") and module in table:
        return f"{start}{table[module]}.{leaf}"
    whole = name[len(start) :]
    return f"{start}{table.get(whole, whole)}"


def config_of(shapes: Shapes, base: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Derives the configuration of diffusers' class from the tensors of a transformer.

    Args:
        shapes: by diffusers' names.
        base: a configuration for values that no shape determines: size of a head, epsilon, length of position codes.
        where: the file, for messages.

    Raises:
        ModelError: the tensors are not those of a Wan transformer.
    """
    try:
        dim, in_channels, *patch = shapes["patch_embedding.weight"]
        embedder = "condition_embedder"
        image = shapes.get(f"{embedder}.image_embedder.norm1.weight")
        positions = shapes.get(f"{embedder}.image_embedder.pos_embed")
        added = shapes.get("blocks.0.attn2.add_k_proj.weight")
        head = int(base.get("attention_head_dim", 128))
        config = {
            "patch_size": patch,
            "num_attention_heads": dim // head,
            "attention_head_dim": head,
            "in_channels": in_channels,
            "out_channels": shapes["proj_out.weight"][0] // math.prod(patch),
            "text_dim": shapes[f"{embedder}.text_embedder.linear_1.weight"][1],
            "freq_dim": shapes[f"{embedder}.time_embedder.linear_1.weight"][1],
            "ffn_dim": shapes["blocks.0.ffn.net.0.proj.weight"][0],
            "num_layers": 1 + max(int(name.split(".")[1]) for name in shapes if name.startswith("blocks.")),
            "cross_attn_norm": "blocks.0.norm2.weight" in shapes,
            "qk_norm": "rms_norm_across_heads",
            "eps": base.get("eps", 1e-6),
            "image_dim": image[0] if image else None,
            "added_kv_proj_dim": added[1] if added else None,
            "rope_max_seq_len": base.get("rope_max_seq_len", 1024),
            "pos_embed_seq_len": positions[1] if positions else None,
        }
    except (KeyError, IndexError, ValueError) as error:
        raise ModelError(f"'{where}' holds no Wan transformer: it lacks {error!s}. Give another file.") from error
    check_shapes(shapes, config, where)
    return config


def check_shapes(shapes: Shapes, config: Mapping[str, Any], where: str) -> None:
    """Checks that the tensors are exactly those of a configuration.

    Raises:
        ModelError: a tensor is missing, left over, or of another shape.
    """
    expected = dict(_expected(config))
    for name, shape in expected.items():
        if name not in shapes:
            raise ModelError(f"'{where}' lacks the tensor {name}. Fetch it again.")
        if math.prod(shapes[name]) != math.prod(shape):
            raise ModelError(
                f"'{where}' is not what its configuration says: {name} is {list(shapes[name])}, not {list(shape)}. "
                "Give the model that the configuration belongs to."
            )
    unexpected = sorted(shapes.keys() - expected.keys())
    if unexpected:
        raise ModelError(f"'{where}' is not a plain Wan I2V transformer: it has {unexpected[0]}. Give another one.")


def _expected(config: Mapping[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yields name and shape of every tensor of ``WanTransformer3DModel(**config)``."""
    dim, patch = config["num_attention_heads"] * config["attention_head_dim"], tuple(config["patch_size"])
    embedder, ffn = "condition_embedder", config["ffn_dim"]
    yield "patch_embedding.weight", (dim, config["in_channels"], *patch)
    yield "patch_embedding.bias", (dim,)
    yield "scale_shift_table", (1, 2, dim)
    yield from _linear("proj_out", config["out_channels"] * math.prod(patch), dim)
    yield from _linear(f"{embedder}.time_embedder.linear_1", dim, config["freq_dim"])
    yield from _linear(f"{embedder}.time_embedder.linear_2", dim, dim)
    yield from _linear(f"{embedder}.time_proj", 6 * dim, dim)
    yield from _linear(f"{embedder}.text_embedder.linear_1", dim, config["text_dim"])
    yield from _linear(f"{embedder}.text_embedder.linear_2", dim, dim)
    if image := config.get("image_dim"):
        yield from _norm(f"{embedder}.image_embedder.norm1", image)
        yield from _linear(f"{embedder}.image_embedder.ff.net.0.proj", image, image)
        yield from _linear(f"{embedder}.image_embedder.ff.net.2", dim, image)
        yield from _norm(f"{embedder}.image_embedder.norm2", dim)
        if positions := config.get("pos_embed_seq_len"):
            yield f"{embedder}.image_embedder.pos_embed", (1, positions, image)
    for block in (f"blocks.{index}" for index in range(config["num_layers"])):
        yield f"{block}.scale_shift_table", (1, 6, dim)
        for layer in WAN_LINEARS:
            out, inner = {"ffn.net.0.proj": (ffn, dim), "ffn.net.2": (dim, ffn)}.get(layer, (dim, dim))
            yield from _linear(f"{block}.{layer}", out, inner)
        for norm in ("attn1.norm_q", "attn1.norm_k", "attn2.norm_q", "attn2.norm_k"):
            yield f"{block}.{norm}.weight", (dim,)
        if config.get("cross_attn_norm", True):
            yield from _norm(f"{block}.norm2", dim)
        if added := config.get("added_kv_proj_dim"):
            yield from _linear(f"{block}.attn2.add_k_proj", dim, added)
            yield from _linear(f"{block}.attn2.add_v_proj", dim, added)
            yield f"{block}.attn2.norm_added_k.weight", (dim,)


def _linear(name: str, out: int, inner: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", (out, inner)
    yield f"{name}.bias", (out,)


def _norm(name: str, width: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", (width,)
    yield f"{name}.bias", (width,)
