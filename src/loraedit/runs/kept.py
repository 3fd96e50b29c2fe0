"""Footage and objects as a run folder keeps them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from loraedit.masks.tube import MaskTube
from loraedit.storage.files import fingerprint
from loraedit.types import Clip, Footage, Image, Origin, Size, Stored
from loraedit.video import open_footage

__all__ = ["Kept", "KeptObject", "in_memory"]


@dataclass(frozen=True)
class Kept:
    """Footage in a folder of frames, together with the frame rate and origin that such a folder cannot state."""

    folder: Footage
    fps: Fraction
    origin: Origin | None = None
    timed: bool = True

    @classmethod
    def of(cls, folder: Path, like: Footage) -> Kept:
        """Opens a folder of frames with the timing of the clip that they were made from."""
        return cls(open_footage(folder), like.fps, like.origin, like.timed)

    def __len__(self) -> int:
        return len(self.folder)

    @property
    def size(self) -> Size:
        """Height and width of a frame, in pixels."""
        return self.folder.size

    @property
    def depth(self) -> int:
        """Bits of a stored channel."""
        return self.folder.depth

    @property
    def alpha(self) -> bool:
        """True if the frames have opacity."""
        return self.folder.alpha

    @property
    def fingerprint(self) -> str:
        """Twelve hex digits of all frames."""
        return self.folder.fingerprint

    def rgb(self, start: int = 0, stop: int | None = None) -> Iterator[Image]:
        """See :meth:`loraedit.types.Footage.rgb`."""
        return self.folder.rgb(start, stop)

    def exact(self, start: int = 0, stop: int | None = None) -> Iterator[Stored]:
        """See :meth:`loraedit.types.Footage.exact`."""
        return self.folder.exact(start, stop)


@dataclass(frozen=True)
class KeptObject:
    """One of several objects that are edited at once.

    Attributes:
        name: its name.
        mask: where it is edited.
        keyframes: its references by frame index, uint8 ``[H, W, 3]``, in the order in which they are learnt.
        prompt: its part of the edit's prompt.
    """

    name: str
    mask: MaskTube
    keyframes: dict[int, Image]
    prompt: str

    def provenance(self, number: int) -> dict[str, Any]:
        """Returns its record for ``settings.json``.

        Args:
            number: its place among all objects, from 0.
        """
        keyframes = {str(index): fingerprint(image) for index, image in sorted(self.keyframes.items())}
        return {
            "number": number,
            "mask": self.mask.fingerprint,
            "references": keyframes,
            "reference_order": list(self.keyframes),
            "prompt": self.prompt,
        }


def in_memory(footage: Footage) -> Clip:
    """Reads all frames of a clip into memory, 8 bits deep."""
    return Clip(np.stack(list(footage.rgb())), footage.fps, footage.origin, footage.timed)
