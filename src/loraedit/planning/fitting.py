"""Chooses how an edit fits into a device's memory: the first of a ladder of measures whose need is low enough."""

from __future__ import annotations

import re
from collections.abc import Callable

import torch

from loraedit.errors import InputError
from loraedit.planning.cost import Cost
from loraedit.settings import Resources

__all__ = ["MARGIN_BYTES", "choose_resources", "fits", "ladder", "parse_vram", "save_more"]

GB = 10**9
MARGIN_BYTES = 2 * GB
"""Memory that stays free for what no plan sees: the driver, the kernels' scratch space, gaps between blocks."""

_OF_TRANSFORMER = ("checkpointing", "offload_checkpoints", "swap_blocks")
_ENCODERS = {"offload_encoders": True, "tile_vae": True}

Measure = Callable[[Resources], dict[str, Cost]]
"""Returns the cost of some or all phases under given resources."""


def ladder(blocks: int) -> list[Resources]:
    """Returns measures for a transformer of so many blocks, fastest first. None changes a result."""
    kept = Resources(checkpointing=True)
    swapped = kept.model_copy(update={"swap_blocks": blocks})
    return [
        Resources(),
        kept,
        kept.model_copy(update={"offload_checkpoints": True}),
        swapped,
        swapped.model_copy(update={"offload_checkpoints": True}),
    ]


def parse_vram(text: str, device: torch.device | None) -> int | None:
    """Parses ``24GB`` or ``24`` into bytes; ``auto`` means the memory of the device, or None where it has no limit.

    Raises:
        InputError: the text has another form.
    """
    if text == "auto":
        if device is None or device.type != "cuda":
            return None
        return int(torch.cuda.get_device_properties(device).total_memory)
    match = re.fullmatch(r"(\d{1,4}(?:\.\d+)?)\s*(?:GB|G)?", text, re.IGNORECASE)
    if match is None or float(match[1]) <= 0:
        raise InputError(f"Video memory '{text}' is not a size. Give gigabytes, such as 24GB, or auto.")
    return int(float(match[1]) * GB)


def fits(costs: dict[str, Cost], budget: int) -> bool:
    """Returns whether every phase leaves the margin free."""
    return all(cost.peak_bytes + MARGIN_BYTES <= budget for cost in costs.values())


def choose_resources(
    measure: Measure, budget: int, blocks: int, apply_user: Callable[[Resources], Resources]
) -> Resources:
    """Chooses the resources of a run.

    Args:
        measure: returns the costs under given resources; called for as few rungs of the ladder as possible.
        budget: bytes of the device.
        blocks: number of the transformer's blocks.
        apply_user: overrides chosen resources by the user's own settings.

    Returns:
        The first rung whose transformer fits, or the last one; with encoders offloaded and the VAE in tiles if these
        do not fit otherwise. The result may still not fit; see :func:`fits`.
    """

    def need(resources: Resources, *phases: str) -> bool:
        costs = measure(resources)
        return fits({name: costs[name] for name in phases if name in costs}, budget)

    plain, *rungs = (apply_user(rung) for rung in ladder(blocks))
    chosen = next((rung for rung in rungs if need(rung, "train", "sample")), rungs[-1])
    if chosen == rungs[0] and need(plain, "train", "sample"):  # measured last, because it takes long and rarely fits
        chosen = plain
    if not need(chosen, "text_encode", "image_encode"):
        chosen = apply_user(chosen.model_copy(update={"offload_encoders": True}))
    if not need(chosen, "vae_encode", "vae_decode"):
        chosen = apply_user(chosen.model_copy(update={"tile_vae": True}))
    return chosen


def save_more(
    used: Resources, encoding: bool, blocks: int, apply_user: Callable[[Resources], Resources]
) -> Resources | None:
    """Chooses the next measure after memory ran out against the plan.

    Args:
        used: the resources under which it ran out.
        blocks: number of the transformer's blocks.
        encoding: True if it ran out while encoding or decoding, False if in the transformer.
        apply_user: see :func:`choose_resources`.

    Returns:
        The next measure that saves memory where it ran out, or else elsewhere; None if all are in use.
    """
    measures = [{name: getattr(rung, name) for name in _OF_TRANSFORMER} for rung in ladder(blocks)]
    rungs = [apply_user(used.model_copy(update=measure)) for measure in measures]
    place = max((index for index, rung in enumerate(rungs) if rung == used), default=-1)
    others = [
        apply_user(used.model_copy(update={"offload_encoders": True})),
        apply_user(used.model_copy(update=_ENCODERS)),
    ]
    candidates = [*others, *rungs[place + 1 :]] if encoding else [*rungs[place + 1 :], *others]
    return next((resources for resources in candidates if resources != used), None)
