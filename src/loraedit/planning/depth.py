"""Derives a deep transformer's figures from shallow ones of the same width: blocks of a kind all cost the same."""

from __future__ import annotations

from collections.abc import Callable

from loraedit.families.model_card import ModelCard, SingleFile
from loraedit.families.registry import record_of

__all__ = ["from_few_blocks"]

FEW = 2
"""Blocks of each kind to run: when another is added, one of them is neither the first nor the last."""


def from_few_blocks(card: ModelCard, expert: str, measure: Callable[[ModelCard], dict[str, int]]) -> dict[str, int]:
    """Returns the figures of the whole transformer from runs with few blocks of each kind, and with one more.

    Running all blocks gives the same figures and takes minutes.

    Args:
        card: the model.
        expert: the transformer to measure.
        measure: returns figures by name, for a model card whose expert may have fewer blocks.
    """
    config = card.config(expert)
    depths = {name: int(config[name]) for name in record_of(card.pipeline).block_counts}
    few = {name: min(FEW, depth) for name, depth in depths.items()}
    base = measure(_shallow(card, expert, few))
    total = dict(base)
    for name, depth in depths.items():
        if depth > FEW:
            more = measure(_shallow(card, expert, {**few, name: FEW + 1}))
            for figure in base:
                total[figure] += (depth - FEW) * (more[figure] - base[figure])
    return total


def _shallow(card: ModelCard, expert: str, depths: dict[str, int]) -> ModelCard:
    """Returns the model card with other numbers of blocks; no weights exist for it."""
    file = SingleFile(path=card.folder / expert, config={**card.config(expert), **depths}, kinds=card.kinds(expert))
    return card.model_copy(update={"files": {**card.files, expert: file}})
