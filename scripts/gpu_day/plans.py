"""The planned figures, kept in a file so that they can be measured ahead, where time costs nothing.

This is the only module here that asks for plans.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from loraedit.families.card import ModelCard
from loraedit.families.registry import block_count
from loraedit.planning import MARGIN_BYTES, Cost, Fitting, Limits, Shape, measure_cost, work_of_size
from loraedit.planning.gpus import Gpu
from loraedit.planning.host import HostPlan
from loraedit.settings import Resources, TrainSettings, make_settings
from loraedit.storage.files import fingerprint, read_json, write_json
from loraedit.types import Size

__all__ = ["KEPT", "Planned", "Plans", "seconds_on"]

KEPT = Resources(checkpointing=True)
"""What every plan of a large model begins with."""

TIGHT = 0.9
"""Share of what training needs that stands for a small GPU where none is given."""


class Planned(NamedTuple):
    """The figures of a phase of an edit, once.

    Attributes:
        flops: operations.
        peak_bytes: peak of the device's memory.
        buffer_bytes: swapped weights and checkpoints in the host's memory.
        resident_bytes: peak of the host's memory, without that of the process before it loads a model.
    """

    flops: int
    peak_bytes: int
    buffer_bytes: int
    resident_bytes: int


class Plans:
    """Plans one model at several shapes and under several memory measures.

    Args:
        card: the model.
        settings: rank and targets of its LoRA.
        path: file of the figures; it may not exist yet.
    """

    def __init__(self, card: ModelCard, settings: TrainSettings, path: Path) -> None:
        self._card, self._settings, self._path = card, settings, path

    def of(self, frames: int, size: Size, resources: Resources = KEPT) -> dict[str, Planned]:
        """Returns the figures of all phases by name."""
        key = self._key(frames, size, resources.model_dump())
        figures = self._kept(key, lambda: self._figures(frames, size, resources))
        return {name: Planned(*each) for name, each in figures.items()}

    def fitting(self, frames: int, size: Size, budget: int | None) -> Resources:
        """Returns the memory measures that fit the transformer into ``budget`` bytes.

        Without a budget, they fit into a part of what training needs.
        """
        key = self._key(frames, size, budget)
        return Resources.model_validate(self._kept(key, lambda: self._chosen(frames, size, budget)))

    def counts(self, frames: int, size: Size) -> tuple[int, int]:
        """Returns the training steps and the sampling passes of an edit by the published method."""
        work = work_of_size(self._card, make_settings({"recipe": "paper"}), size, frames)
        return work.train_steps, work.passes

    def _figures(self, frames: int, size: Size, resources: Resources) -> dict[str, Any]:
        costs = self._measure(frames, size, resources)
        resident = HostPlan(Shape(frames, size), reload_weights=False).bytes(costs)
        return {
            name: [cost.flops, cost.peak_bytes, cost.host_bytes + cost.checkpoint_bytes, resident[name]]
            for name, cost in costs.items()
        }

    def _chosen(self, frames: int, size: Size, budget: int | None) -> dict[str, Any]:
        least = budget or MARGIN_BYTES + round(TIGHT * self.of(frames, size)["train"].peak_bytes)

        def transformer(resources: Resources) -> dict[str, Cost]:
            costs = self._measure(frames, size, resources)
            return {name: costs[name] for name in ("train", "sample")}

        fitting = Fitting(transformer, lambda *_: 0, lambda chosen: chosen, block_count(self._card))
        return fitting.choose(Limits(least)).model_dump()

    def _measure(self, frames: int, size: Size, resources: Resources) -> dict[str, Cost]:
        return measure_cost(self._card, Shape(frames, size), self._settings, resources)

    def _kept(self, key: str, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Returns what the file has under a key, or measures it and writes it there."""
        known = read_json(self._path) if self._path.exists() else {}
        if key not in known:
            known = {key: measure(), **(read_json(self._path) if self._path.exists() else {})}
            write_json(self._path, known)
        found: dict[str, Any] = known[key]
        return found

    def _key(self, *facts: object) -> str:
        configs = [self._card.config(name) for name in self._card.components]
        return fingerprint(configs, self._settings.model_dump(), [str(fact) for fact in facts])


def seconds_on(gpu: Gpu | None, flops: int) -> float | None:
    """Returns the planned time of operations on a GPU of the list; None on others."""
    return None if gpu is None else flops / (gpu.tflops * 1e12 * gpu.efficiency.share)
