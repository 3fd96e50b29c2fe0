"""Common GPUs by their makers' figures, and the share of these that a run reaches."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from loraedit.storage.files import read_json

__all__ = ["EFFICIENCIES", "GPUS", "HOST_BANDWIDTH", "Efficiency", "Gpu", "efficiency_of", "known_gpu"]

EFFICIENCIES = Path(__file__).with_name("efficiency.json")
"""Efficiency by GPU. ``python -m scripts.gpu_day --refit`` adds what it measured."""

DEFAULT = "RTX 4090"
"""The GPU whose efficiency is used for those without one of their own."""

FORMS = frozenset({"SXM"})
"""Words of the names below that torch does not state."""

VARIANTS = frozenset({"Laptop", "NVL", "PCIe", "SUPER", "Ti"})
"""Words in torch's name of a device that make it another GPU."""


@dataclass(frozen=True)
class Efficiency:
    """The share of a GPU's published speed that a run reaches.

    Attributes:
        share: in (0, 1].
        source: ``measured`` by a run, ``published`` by others, ``assumed``, ``given`` by the user, or ``as`` another
            GPU.
        basis: what it was taken from.
    """

    share: float
    source: str
    basis: str = ""


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

    @property
    def efficiency(self) -> Efficiency:
        """Returns the share of its speed that a run is expected to reach."""
        return efficiency_of(self.name)


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

HOST_BANDWIDTH = 20e9
"""Bytes a second between the host's pinned memory and a GPU (PCIe 4 x16)."""


def efficiency_of(name: str) -> Efficiency:
    """Returns the efficiency of a GPU by its name here; one without a value of its own has that of the default."""
    known = _efficiencies()
    if name in known:
        return known[name]
    return Efficiency(known[DEFAULT].share, f"as {DEFAULT}", known[DEFAULT].basis)


@cache
def _efficiencies() -> dict[str, Efficiency]:
    return {name: Efficiency(**entry) for name, entry in read_json(EFFICIENCIES).items()}


def known_gpu(device: str) -> Gpu | None:
    """Returns the GPU that torch names ``NVIDIA H100 80GB HBM3``, for example; None if it is none of the list."""
    words = set(re.findall(r"\w+", device))
    if words & VARIANTS:
        return None
    return next((gpu for gpu in GPUS if set(gpu.name.split()) - FORMS <= words), None)
