"""Compares the frame rate of the clip with that of the model, and chooses the one that a model reads."""

from __future__ import annotations

from loraedit.families.card import NANO, ModelCard
from loraedit.types import Footage

__all__ = ["frame_rate_for", "frame_rate_notes"]

SENSIBLE = (1.0, 240.0)
"""The frame rates that a clip may state; others are mistakes of its file."""

FAR = 1.5
"""The factor between two frame rates from which on motion looks faster or slower to the model."""


def frame_rate_for(card: ModelCard, clip: Footage) -> float | None:
    """Returns the frame rate that a model reads: the clip's, or the model's own if the clip has none.

    None for a model that reads no frame rate.
    """
    return (_rate_of(clip) or card.settings.frame_rate) if card.reads_frame_rate else None


def frame_rate_notes(card: ModelCard, clip: Footage) -> list[str]:
    """Says so if motion between the frames is much larger or smaller than the model knows.

    nano has no rate of its own, and a model that reads the rate knows all.
    """
    rate, known = _rate_of(clip), card.settings.frame_rate
    if rate is None or card.reads_frame_rate or card.folder == NANO or known / FAR <= rate <= known * FAR:
        return []
    return [
        f"The model was trained at {known:g} frames a second and the clip has {rate:.4g}, so motion between frames is "
        f"{'smaller' if rate > known else 'larger'} than the model knows."
    ]


def _rate_of(clip: Footage) -> float | None:
    """Returns the frames per second of a clip that states them."""
    rate = float(clip.fps)
    return rate if clip.timed and SENSIBLE[0] <= rate <= SENSIBLE[1] else None
