"""The layers of HunyuanVideo and HunyuanVideo-1.5, by the models' own names and by diffusers' names."""

from __future__ import annotations

from loraedit.families.record import LayerNames

__all__ = ["LAYER_NAMES"]

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
_LAYERS: dict[str, tuple[str, ...]] = {
    **_FUSED,
    "single_blocks.#.linear2": ("single_transformer_blocks.#.proj_out",),
    "single_blocks.#.modulation.linear": ("single_transformer_blocks.#.norm.linear",),
    **{f"double_blocks.#.{native}": (f"transformer_blocks.#.{name}",) for native, name in _DOUBLE.items()},
}
"""The layers of the blocks.

HunyuanVideo has one layer for queries, keys and values, and in single blocks one for these and the MLP.
HunyuanVideo-1.5 has a layer for each. The first entry that names a layer of diffusers is the one to write it as.
"""

LAYER_NAMES = LayerNames(
    fused=_LAYERS,
    endings={  # of ComfyUI's own model
        "_attn.qkv": "_attn_qkv", "_attn.proj": "_attn_proj", "_mlp.0": "_mlp.fc1", "_mlp.2": "_mlp.fc2",
        "_mod.lin": "_mod.linear", ".modulation.lin": ".modulation.linear",
    },
    only_here=("single_transformer_blocks.#.", "transformer_blocks.#.attn.", "transformer_blocks.#.ff_"),
)  # fmt: skip
