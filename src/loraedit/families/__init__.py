"""What differs between model families, and nothing else. Importing this loads no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from loraedit.families.model_card import ModelCard
from loraedit.settings import Resources

if TYPE_CHECKING:
    from loraedit.families.base import Family

__all__ = ["open_family"]

FAMILIES = {
    "WanImageToVideoPipeline": ("wan", "WanFamily"),
    "SkyReelsV2ImageToVideoPipeline": ("wan", "WanFamily"),
    "HunyuanVideoImageToVideoPipeline": ("hunyuan", "HunyuanFamily"),
    "HunyuanVideo15ImageToVideoPipeline": ("hunyuan15", "Hunyuan15Family"),
    "LTXConditionPipeline": ("ltx", "LtxFamily"),
    "LTX2ConditionPipeline": ("ltx2", "Ltx2Family"),
}
"""By pipeline: module and class. Each loads when it is needed."""


def open_family(card: ModelCard, resources: Resources | None = None) -> Family:
    """The family that a checkpoint belongs to; no weights are loaded yet."""
    from importlib import import_module

    module, name = FAMILIES[card.pipeline]
    family: Family = getattr(import_module(f"loraedit.families.{module}"), name)(card)
    family.resources = resources or Resources()
    return family
