"""What differs between model families, and nothing else. Importing this loads no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from loraedit.families.model_card import ModelCard

if TYPE_CHECKING:
    from loraedit.families.base import Family

__all__ = ["open_family"]


def open_family(card: ModelCard) -> Family:
    """The family that a checkpoint belongs to; no weights are loaded yet."""
    from loraedit.families.wan import WanFamily

    makers = {"WanImageToVideoPipeline": WanFamily, "SkyReelsV2ImageToVideoPipeline": WanFamily}
    return makers[card.pipeline](card)
