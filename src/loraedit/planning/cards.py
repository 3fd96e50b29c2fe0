"""Graphics cards by their makers' numbers, and how much of it a run gets."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["CARDS", "EFFICIENCY", "HOST_BANDWIDTH", "GraphicsCard"]


@dataclass(frozen=True)
class GraphicsCard:
    """A card.

    Attributes:
        name: as its maker writes it.
        memory_gb: in 10^9 bytes.
        tflops: dense matrix products in bfloat16, sums in float32, 10^12 a second, as published: in the white
            papers of Ampere, Ada and Blackwell, and in the data sheets of L40S, A100, H100 and H200.
        is_host: whether its memory is the host's, so that what is kept there is in it too.
    """

    name: str
    memory_gb: int
    tflops: float
    is_host: bool = False


CARDS = (
    GraphicsCard("RTX 3060", 12, 25.5),
    GraphicsCard("RTX 4080", 16, 97.5),
    GraphicsCard("RTX 3090", 24, 71.0),
    GraphicsCard("RTX 4090", 24, 165.2),
    GraphicsCard("RTX 5090", 32, 209.5),
    GraphicsCard("L40S", 48, 362.05),
    GraphicsCard("A100 80GB", 80, 312.0),
    GraphicsCard("H100 SXM", 80, 989.4),
    GraphicsCard("H200", 141, 989.4),
)

EFFICIENCY = 3.04e15 / 31.88 / 165.2e12
"""Share of a card's published speed: LoRA-Edit's authors took 31.88 s for such a step on an RTX 4090, with swapping."""

HOST_BANDWIDTH = 20e9
"""Bytes a second between the host's pinned memory and a card (PCIe 4 x16)."""
