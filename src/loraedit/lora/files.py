"""The content of LoRA files of every public kind, in one form."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from loraedit.lora.low_rank import LowRankLayer

__all__ = ["LoraFile"]


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
