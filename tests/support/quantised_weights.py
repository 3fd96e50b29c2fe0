"""Quantised weights of every kind, for tests and measurements."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from gguf_files import encode
from torch import Tensor

from loraedit.families.quantised import GgufWeight, QuantisedWeight, quantise

__all__ = ["ALL_KINDS", "BITS", "GGUF_KINDS", "NF4", "stored"]

NF4 = pytest.param(
    "nf4", marks=pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="needs bitsandbytes")
)
GGUF_KINDS = ("Q8_0", "Q6_K", "Q5_K", "Q4_K")
ALL_KINDS = ("fp8", "int8", NF4, *GGUF_KINDS)
BITS = {"fp8": 8, "int8": 8, "nf4": 4.5, "Q8_0": 8.5, "Q6_K": 6.5625, "Q5_K": 5.5, "Q4_K": 4.5}
"""Bits a weight, factors included; a factor for a row or for all weights is not counted."""


def stored(weight: Tensor, kind: str) -> QuantisedWeight:
    if kind in GGUF_KINDS:
        return GgufWeight(torch.from_numpy(encode(weight.float().numpy(), kind)), kind)
    return quantise(weight, kind)
