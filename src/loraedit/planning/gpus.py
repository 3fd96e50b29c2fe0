"""Common GPUs by their makers' figures, and the share of these that a run reaches."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["EFFICIENCY", "GPUS", "HOST_BANDWIDTH", "Gpu"]


@dataclass(frozen=True)
class Gpu:
    """A GPU, or this machine's processor in its place.

    Attributes:
        name: as its maker writes it.
        memory_gb: in 10^9 bytes.
        tflops: dense matrix products in bfloat16 with sums in float32, in 10^12 operations a second, as published: in
            the white papers of Ampere, Ada and Blackwell, and in the data sheets of L40S, A100, H100 and H200.
        is_host: True for a processor, whose memory also holds what a GPU would keep in the host's memory.
    """

    name: str
    memory_gb: int
    tflops: float
    is_host: bool = False


GPUS = (
    Gpu("RTX 3060", 12, 25.5),
    Gpu("RTX 4080", 16, 97.5),
    Gpu("RTX 3090", 24, 71.0),
    Gpu("RTX 4090", 24, 165.2),
    Gpu("RTX 5090", 32, 209.5),
    Gpu("L40S", 48, 362.05),
    Gpu("A100 80GB", 80, 312.0),
    Gpu("H100 SXM", 80, 989.4),
    Gpu("H200", 141, 989.4),
)

EFFICIENCY = 3.04e15 / 31.88 / 165.2e12
"""Share of a GPU's published speed: LoRA-Edit's authors took 31.88 s for such a step on an RTX 4090, with swapping."""

HOST_BANDWIDTH = 20e9
"""Bytes a second between the host's pinned memory and a GPU (PCIe 4 x16)."""
