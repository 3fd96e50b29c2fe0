"""A deep transformer's figures from shallow ones of its true width: of each kind of block, one adds what all add."""

from __future__ import annotations

from collections.abc import Callable

from loraedit.families.model_card import ModelCard, SingleFile
from loraedit.families.registry import record_of

__all__ = ["from_few_blocks"]

FEW = 2
"""Blocks of each kind that run, so that one of them is neither the first nor the last when another is added."""


def from_few_blocks(card: ModelCard, measure: Callable[[ModelCard], dict[str, int]]) -> dict[str, int]:
    """What ``measure`` gives for the whole transformer, run with few blocks of each kind, and with one more.

    Running all of them says the same, and takes minutes.

    Args:
        measure: figures by name, of a card whose first transformer may be shallower.
    """
    config = card.config(card.experts[0])
    depths = {name: int(config[name]) for name in record_of(card.pipeline).block_counts}
    few = {name: min(FEW, depth) for name, depth in depths.items()}
    base = measure(_shallow(card, few))
    total = dict(base)
    for name, depth in depths.items():
        if depth > FEW:
            more = measure(_shallow(card, {**few, name: FEW + 1}))
            for figure in base:
                total[figure] += (depth - FEW) * (more[figure] - base[figure])
    return total


def _shallow(card: ModelCard, depths: dict[str, int]) -> ModelCard:
    """The same with other numbers of blocks; there are no weights for it."""
    expert = card.experts[0]
    config = SingleFile(path=card.folder / expert, config={**card.config(expert), **depths})
    return card.model_copy(update={"files": {**card.files, expert: config}})
