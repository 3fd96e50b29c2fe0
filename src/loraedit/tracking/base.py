"""What a tracker answers, so that another one can take the embedded one's place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from loraedit.types import Frames, Mask, OnStep, Plane, no_step

__all__ = ["Plane", "Seeds", "Tracker"]

Seeds = Mapping[int, Plane]  # what is known: the object in some frames, by index from 0


class Tracker(Protocol):
    """Follows one object from where it is known to all other frames."""

    def track(self, source: Frames, seeds: Seeds, on_step: OnStep = no_step) -> Mask:
        """Find the object in every frame.

        Args:
            source: uint8 ``[F, H, W, 3]`` RGB.
            seeds: by frame index, bool ``[H, W]``, True = object; at least one. A seed on a later frame is a
                correction: what is found near it in time follows from it.
            on_step: told (frames done, frames in all).

        Returns:
            bool ``[F, H, W]``, True = object, tight; in a seed's frame the seed itself. All False in frames where the
            object is out of sight.
        """
        ...
