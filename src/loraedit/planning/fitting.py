"""Choose how an edit fits into a card's memory: the first of a ladder of means whose measured need is low enough."""

from __future__ import annotations

import re
from collections.abc import Callable

import torch

from loraedit.errors import InputError
from loraedit.planning.cost import Cost
from loraedit.settings import Resources

__all__ = ["MARGIN_BYTES", "fit", "fits", "parse_vram", "spare"]

GB = 10**9
MARGIN_BYTES = 2 * GB
"""Left free on a card for what no plan sees: the driver, the kernels' scratch space, gaps between blocks."""

LADDER = (
    Resources(),
    Resources(checkpointing=True),
    Resources(checkpointing=True, offload_checkpoints=True),
    Resources(checkpointing=True, offload_blocks=True),
    Resources(checkpointing=True, offload_blocks=True, offload_checkpoints=True),
)
"""For the transformer, fastest first. None of them changes a result, so fp8 is taken only by who asks for it."""

_OF_TRANSFORMER = ("checkpointing", "offload_checkpoints", "offload_blocks")
_ENCODERS = {"offload_encoders": True, "tile_vae": True}

Measure = Callable[[Resources], dict[str, Cost]]
"""The cost of some or all phases under such resources."""


def parse_vram(text: str, device: torch.device | None) -> int | None:
    """Bytes of ``24GB`` or ``24``; of ``auto`` the memory of the device, or None where there is no limit to know.

    Raises:
        InputError: it is neither.
    """
    if text == "auto":
        if device is None or device.type != "cuda":
            return None
        return int(torch.cuda.get_device_properties(device).total_memory)
    match = re.fullmatch(r"(\d{1,4}(?:\.\d+)?)\s*(?:GB|G)?", text, re.IGNORECASE)
    if match is None or float(match[1]) <= 0:
        raise InputError(f"Video memory '{text}' is not understood. Give it in GB, such as 24GB, or auto.")
    return int(float(match[1]) * GB)


def fits(costs: dict[str, Cost], budget: int) -> bool:
    """Whether every phase leaves the margin free."""
    return all(cost.peak_bytes + MARGIN_BYTES <= budget for cost in costs.values())


def fit(measure: Measure, budget: int, asked: Callable[[Resources], Resources]) -> Resources:
    """The resources to use.

    Args:
        measure: the cost of a phase or of all of them under given resources; called on as few rungs as it takes.
        budget: bytes of the device.
        asked: puts what the user set himself into what was chosen.

    Returns:
        The first rung whose transformer fits, or the last one; with encoders offloaded and the VAE in tiles if these
        do not fit as they are. Whether all of it fits is for :func:`fits` to say.
    """

    def need(resources: Resources, *phases: str) -> bool:
        costs = measure(resources)
        return fits({name: costs[name] for name in phases if name in costs}, budget)

    plain, *rungs = (asked(rung) for rung in LADDER)
    chosen = next((rung for rung in rungs if need(rung, "train", "sample")), rungs[-1])
    if chosen == rungs[0] and need(plain, "train", "sample"):  # measured last: it takes long, and seldom fits
        chosen = plain
    if not need(chosen, "text_encode", "image_encode"):
        chosen = asked(chosen.model_copy(update={"offload_encoders": True}))
    if not need(chosen, "vae_encode", "vae_decode"):
        chosen = asked(chosen.model_copy(update={"tile_vae": True}))
    return chosen


def spare(used: Resources, encoding: bool, asked: Callable[[Resources], Resources]) -> Resources | None:
    """One level lower, when memory has run out although it was to suffice.

    Args:
        encoding: it ran out while encoding or decoding, not in the transformer.
        asked: as in :func:`fit`.

    Returns:
        The next means that save memory where it ran out, or else elsewhere; None if all are in use.
    """
    means = [{name: getattr(rung, name) for name in _OF_TRANSFORMER} for rung in LADDER]
    rungs = [asked(used.model_copy(update=each)) for each in means]
    place = max((index for index, rung in enumerate(rungs) if rung == used), default=-1)
    others = [asked(used.model_copy(update={"offload_encoders": True})), asked(used.model_copy(update=_ENCODERS))]
    candidates = [*others, *rungs[place + 1 :]] if encoding else [*rungs[place + 1 :], *others]
    return next((each for each in candidates if each != used), None)
