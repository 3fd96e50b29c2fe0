"""The host's memory that an edit takes, phase by phase in the order of a run."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from loraedit.planning.phase_cost import Cost, Shape

__all__ = ["HostPlan", "process_bytes", "this_host_bytes"]

FLOAT = 4
CGROUPS = [
    (Path("/sys/fs/cgroup") / limit, Path("/sys/fs/cgroup") / used)
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    )
]
"""Where Linux states limit and use of a container's memory, in both versions of control groups."""
CLIPS = 4
"""Float clips of the model's shape that exist at the same time: condition and target, decoded and matched."""


@dataclass(frozen=True)
class HostPlan:
    """Adds up the host's memory of an edit.

    Text and image encoders pass through host memory and are freed. VAE and transformers stay there until the edit ends;
    without that, a transformer passes through it and leaves its swapped blocks.

    Attributes:
        shape: what the model sees.
        reload_weights: whether transformers are read again for each use.
        on_cpu: whether the device's memory is the host's.
        converts: whether a CPU converts the weights, and so holds them twice.
        base_bytes: what the process takes without models.
    """

    shape: Shape
    reload_weights: bool
    on_cpu: bool = False
    converts: bool = False
    base_bytes: int = 0

    def bytes(self, costs: Mapping[str, Cost]) -> dict[str, int]:
        """Returns the peak of each phase."""
        return {name: self.base_bytes + self._kept(name, costs) + self._own(cost) for name, cost in costs.items()}

    def _kept(self, phase: str, costs: Mapping[str, Cost]) -> int:
        """Returns what earlier phases leave, and the pixels of the phase."""
        if phase in ("text_encode", "image_encode"):
            return 0
        vae = costs["vae_encode"].loaded_bytes
        kept = 0 if self.reload_weights else costs["sample"].all_loaded_bytes
        size = self.shape.size
        clip = FLOAT * 3 * self.shape.frames * size.height * size.width
        if phase in ("train", "sample"):
            ahead = 0 if self.on_cpu else clip  # the segment that is prepared meanwhile
            return vae + max(kept - costs[phase].loaded_bytes, 0) + ahead
        return CLIPS * clip + (kept if phase == "vae_decode" else 0)

    def _own(self, cost: Cost) -> int:
        """Returns what the phase's own model takes: as it is read, or on a CPU while it is placed or used."""
        if not self.on_cpu:
            return cost.loaded_bytes + cost.checkpoint_bytes
        read = cost.loaded_bytes if self.converts else 0
        used = read + cost.weights_bytes + cost.host_bytes + cost.checkpoint_bytes + cost.working_bytes
        return max(used, cost.loaded_bytes + cost.placing_bytes)


def this_host_bytes() -> int:
    """Returns the memory of this machine that an edit may take: what is available, and what this process has.

    In a container or a job of a cluster, its own limit counts.
    """
    available = int(psutil.virtual_memory().available)
    for limit, used in CGROUPS:
        with suppress(OSError, ValueError):  # other systems have none, and "max" is no number
            available = min(available, max(int(limit.read_text()) - int(used.read_text()), 0))
    return available + process_bytes()


def process_bytes() -> int:
    """Returns the resident memory of this process now."""
    return int(psutil.Process().memory_info().rss)
