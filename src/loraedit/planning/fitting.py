"""Chooses how an edit fits into memory: the first of a ladder of measures whose need is low enough."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from loraedit.planning.phase_cost import Cost
from loraedit.settings import Resources, WeightStore, parse_memory

__all__ = ["MARGIN_BYTES", "Fitting", "Limits", "fits", "ladder", "parse_vram", "save_more"]

GB = 10**9
MARGIN_BYTES = 2 * GB
"""Memory that stays free for what no plan sees: the driver, the kernels' scratch space, gaps between blocks."""

IN_TRANSFORMER = ("train", "sample")
IN_ENCODERS = ("text_encode", "image_encode")
IN_VAE = ("vae_encode", "vae_decode")

_OF_TRANSFORMER = ("checkpointing", "offload_checkpoints", "swap_blocks")
_ENCODERS = {"offload_encoders": True, "tile_vae": True}


@dataclass(frozen=True)
class Limits:
    """Bytes that an edit may take.

    Attributes:
        device: on the device.
        host: in the host's memory; None is no limit.
    """

    device: int
    host: int | None = None


def ladder(blocks: int) -> list[Resources]:
    """Returns measures for a transformer of so many blocks, fastest first. None changes a result."""
    kept = Resources(checkpointing=True)
    swapped = kept.model_copy(update={"swap_blocks": blocks})
    return [Resources(), kept, swapped, swapped.model_copy(update={"offload_checkpoints": True})]


def parse_vram(text: str, device: torch.device | None) -> int | None:
    """Parses ``24GB`` or ``24`` into bytes; ``auto`` means the memory of the device, or None where it has no limit.

    Raises:
        InputError: the text has another form.
    """
    given = parse_memory(text)
    if given is not None or device is None or device.type != "cuda":
        return given
    return int(torch.cuda.get_device_properties(device).total_memory)


def fits(costs: Mapping[str, Cost], budget: int) -> bool:
    """Returns whether every phase leaves the margin free."""
    return all(cost.peak_bytes + MARGIN_BYTES <= budget for cost in costs.values())


@dataclass(frozen=True)
class Fitting:
    """Chooses the resources of an edit.

    Attributes:
        measure: returns the costs of all phases under given resources.
        host_bytes: returns the most host memory that an edit with these costs takes.
        apply_user: overrides chosen resources by the user's own settings.
        blocks: number of the transformer's blocks.
        stores: how weights may be stored, in order of preference.
        previews: whether the VAE decodes beside the transformer.
    """

    measure: Callable[[Resources], Mapping[str, Cost]]
    host_bytes: Callable[[Resources, Mapping[str, Cost]], int]
    apply_user: Callable[[Resources], Resources]
    blocks: int
    stores: Sequence[WeightStore] = ("auto",)
    previews: bool = False

    def choose(self, limits: Limits) -> Resources:
        """Returns the first choice that keeps within the limits, or the last one; see :meth:`fits`.

        Weights are stored in the first way that fits. Of the measures for the transformer the first that fits the
        device is taken, with as few swapped blocks as possible. Encoders are offloaded, and the VAE works in tiles, if
        these do not fit otherwise. With previews, each measure for the transformer is tried with tiles too, before the
        next one. If the host's memory is too small, transformers are read again for each use.
        """
        chosen = Resources()
        for store in self.stores:
            chosen = self._choose(limits, store)
            if self.fits(chosen, limits):
                break
        return chosen

    def fits(self, resources: Resources, limits: Limits) -> bool:
        """Returns whether all phases leave the device's margin free and keep within the host's memory."""
        return fits(self.measure(resources), limits.device) and self._fits_host(resources, limits)

    def _choose(self, limits: Limits, store: WeightStore) -> Resources:
        plain, *rungs = (self._with(rung, weights=store) for rung in ladder(self.blocks))
        tried = [each for rung in rungs for each in self._tilings(rung)]
        chosen = next((each for each in tried if self._need(each, limits, IN_TRANSFORMER)), tried[-1])
        if chosen == rungs[0] and self._need(plain, limits, IN_TRANSFORMER):  # last: it takes long and rarely fits
            chosen = plain
        chosen = self._with_least_swapped(chosen, limits)
        if not self._need(chosen, limits, IN_ENCODERS):
            chosen = self._with(chosen, offload_encoders=True)
        if not self._need(chosen, limits, IN_VAE):
            chosen = self._with(chosen, tile_vae=True)
        return chosen if self._fits_host(chosen, limits) else self._with(chosen, reload_weights=True)

    def _tilings(self, resources: Resources) -> list[Resources]:
        """Returns a choice, and with previews the same with tiles."""
        return [resources, self._with(resources, tile_vae=True)] if self.previews else [resources]

    def _with_least_swapped(self, resources: Resources, limits: Limits) -> Resources:
        """Returns the same with the fewest swapped blocks that fit, by bisection."""
        enough, too_few = resources.swap_blocks, 0
        if enough != self.blocks or not self._need(resources, limits, IN_TRANSFORMER):
            return resources  # it has none, the user chose the number, or all are not enough
        while enough - too_few > 1:
            middle = (enough + too_few) // 2
            if self._need(self._with(resources, swap_blocks=middle), limits, IN_TRANSFORMER):
                enough = middle
            else:
                too_few = middle
        return self._with(resources, swap_blocks=enough)

    def _with(self, resources: Resources, **changes: object) -> Resources:
        return self.apply_user(resources.model_copy(update=changes))

    def _need(self, resources: Resources, limits: Limits, phases: Sequence[str]) -> bool:
        costs = self.measure(resources)
        return fits({name: costs[name] for name in phases if name in costs}, limits.device)

    def _fits_host(self, resources: Resources, limits: Limits) -> bool:
        return limits.host is None or self.host_bytes(resources, self.measure(resources)) <= limits.host


def save_more(
    used: Resources, encoding: bool, blocks: int, apply_user: Callable[[Resources], Resources]
) -> Resources | None:
    """Chooses the next measure after memory ran out against the plan.

    Args:
        used: the resources under which it ran out.
        blocks: number of the transformer's blocks.
        encoding: True if it ran out while encoding or decoding, False if in the transformer.
        apply_user: see :class:`Fitting`.

    Returns:
        The next measure that saves memory where it ran out, or else elsewhere; None if all are in use.
    """
    measures = [{name: getattr(rung, name) for name in _OF_TRANSFORMER} for rung in ladder(blocks)]
    rungs = [apply_user(used.model_copy(update=measure)) for measure in measures]
    lower = [rung for rung in rungs if all(getattr(rung, name) >= getattr(used, name) for name in _OF_TRANSFORMER)]
    others = [
        apply_user(used.model_copy(update={"offload_encoders": True})),
        apply_user(used.model_copy(update=_ENCODERS)),
    ]
    candidates = [*others, *lower] if encoding else [*lower, *others]
    return next((resources for resources in candidates if resources != used), None)
