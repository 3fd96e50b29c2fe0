"""The content of LoRA files of every public kind, in one form.

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

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import Tensor

from loraedit.lora.low_rank import LowRankLayer

__all__ = ["ADAPTER_METADATA", "DIFFERENCES", "LoraFile", "LoraFormat"]

LoraFormat = Literal["comfyui", "diffusers", "musubi"]

ADAPTER_METADATA = "lora_adapter_metadata"
"""The metadata key for peft's configuration in diffusers' files: JSON with ``transformer.`` before each name."""

DIFFERENCES = {".diff": ".weight", ".diff_b": ".bias", ".diff_m": ".scale_shift_table"}
"""Endings of whole differences in LoRA files, and the endings of the parameters that they change."""


@dataclass(frozen=True)
class LoraFile:
    """The content of a LoRA file.

    Attributes:
        path: the file.
        layers: low-rank changes by diffusers' name of the layer.
        differences: whole differences by diffusers' name of the parameter.
        metadata: the texts of the header by name.
        key_types: the storage type, such as ``BF16``, by the name in the file.
    """

    path: Path
    layers: dict[str, LowRankLayer]
    differences: dict[str, Tensor]
    metadata: dict[str, str]
    key_types: dict[str, str]
