"""The keys of LoRA files of every public kind. Needs no torch.

| kind | layer | matrices | scale |
|---|---|---|---|
| comfyui, "native" | ``diffusion_model.blocks.0.self_attn.q`` | lora_A/lora_B or lora_down/lora_up | ``.alpha`` |
| diffusers, peft | ``transformer.blocks.0.attn1.to_q`` | lora_A/lora_B | alphas in the metadata |
| musubi, kohya | ``lora_unet_blocks_0_self_attn_q`` | lora_down/lora_up | ``.alpha`` |
| DiffSynth (read only) | ``blocks.0.self_attn.q`` | lora_A.default/lora_B.default | none |

:mod:`~loraedit.lora.reading` reads all kinds, and :mod:`~loraedit.lora.writing` writes the first three. Layers that a
model's own code fuses, such as HunyuanVideo's ``double_blocks.0.img_attn_qkv``, are several layers of diffusers; see
:mod:`loraedit.lora.low_rank`.

A layer becomes W + alpha / rank B A. Without an alpha, alpha is the rank. Distilled LoRAs also hold whole differences:
``.diff`` of a weight, ``.diff_b`` of a bias, ``.diff_m`` of a modulation table. They are added as they are.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from loraedit.errors import ModelError
from loraedit.families.layer_names import diffusers_name, spread_flat_name

__all__ = ["ADAPTER_METADATA", "DIFFERENCES", "LoraFormat", "parse_key"]

LoraFormat = Literal["comfyui", "diffusers", "musubi"]

ADAPTER_METADATA = "lora_adapter_metadata"
"""The metadata key for peft's configuration in diffusers' files: JSON with ``transformer.`` before each name."""

DIFFERENCES = {".diff": ".weight", ".diff_b": ".bias", ".diff_m": ".scale_shift_table"}
"""Endings of whole differences in LoRA files, and the endings of the parameters that they change."""

PREFIXES = (
    "model.diffusion_model.", "diffusion_model.", "base_model.model.", "transformer.", "pipe.dit.", "dit.",
    "lora_unet_", "lora_transformer_",
)  # fmt: skip
MATRIX = re.compile(r"\.(lora_A|lora_B|lora_down|lora_up|lora\.down|lora\.up)(?:\.\w+)?\.(weight|bias)$")
OTHER_METHODS = {
    "lokr_": "LoKr", "hada_": "LoHa", "dora_scale": "DoRA", "lora_magnitude_vector": "DoRA", "oft_": "OFT",
    "lora_embedding_": "embedding", "lora_mid": "LoCon",
}  # fmt: skip


def parse_key(path: Path, key: str) -> tuple[str, str]:
    """Splits the key of a tensor.

    Args:
        path: the LoRA file, for messages.
        key: a name in its header.

    Returns:
        Diffusers' name of the layer, and ``down``, ``up``, ``up.bias``, ``alpha`` or one of :data:`DIFFERENCES`.

    Raises:
        ModelError: no LoRA of a known kind has such a key.
    """
    if not key.isprintable():
        raise ModelError(
            f"'{path}' holds names that cannot be printed, so it is not a LoRA file of a known kind. Give another file."
        )
    for mark, method in OTHER_METHODS.items():
        if mark in key:
            raise ModelError(f"'{path}' is a {method} file: it holds {key}. Give a plain LoRA file.")
    matrix, last = MATRIX.search(key), f".{key.rpartition('.')[2]}"
    if matrix is not None:
        name, part = key[: matrix.start()], "up" if matrix[1].endswith(("_B", "up")) else "down"
        part = part if matrix[2] == "weight" else f"{part}.bias"
    elif last in DIFFERENCES or last == ".alpha":
        name, part = key.removesuffix(last), last if last in DIFFERENCES else "alpha"
    else:
        raise ModelError(f"'{path}' is not a LoRA file of a known kind: it holds '{key}'. Give another file.")
    prefix = next((prefix for prefix in PREFIXES if name.startswith(prefix)), "")
    name = name.removeprefix(prefix)
    if prefix.startswith("lora_"):
        dotted = spread_flat_name(name)
        if dotted is None:
            raise ModelError(
                f"'{path}' names a layer '{prefix}{name}' that no known model has. Give a LoRA of a supported model."
            )
        name = dotted
    return diffusers_name(name), part
