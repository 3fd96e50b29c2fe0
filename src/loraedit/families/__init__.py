"""What differs between model families, and nothing else. Importing this package loads no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from loraedit.families.model_card import ModelCard
from loraedit.families.record import FamilyRecord, LayerNames
from loraedit.families.registry import record_of, register
from loraedit.settings import Resources

if TYPE_CHECKING:
    from loraedit.families.base import Family

__all__ = ["FamilyRecord", "LayerNames", "open_family", "register"]


def open_family(card: ModelCard, resources: Resources | None = None) -> Family:
    """Returns the family of a checkpoint. Its weights load later, when a method needs them.

    Args:
        resources: how models fit into the device's memory; None loads them whole.
    """
    family = record_of(card.pipeline).open(card)
    family.resources = resources or Resources()
    return family
