"""What the user asks for, before anything of it is read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from loraedit.job.edits import EditObject, ImageLike
from loraedit.masks.reading import MaskSpec
from loraedit.runs.kept import Kept
from loraedit.settings import EditSettings, make_settings
from loraedit.types import Clip

__all__ = ["ClipLike", "EditRequest"]

ClipLike = str | Path | Clip | Kept | NDArray[Any]


@dataclass(frozen=True)
class EditRequest:
    """One edit as the user gave it.

    Attributes:
        source: the clip: a video, a folder of frames, or frames in memory.
        first_frame: the edited first frame.
        mask: where to edit. None or "auto" makes a mask from the edited frames; with objects it is the union of theirs.
        references: edited frames after the first by frame index, from 0.
        objects: things that are edited at once, each with its own mask; their prompts are joined to the prompt.
        settings: everything else.
        out: where the result goes, or None.
        run: the run folder. None: beside ``out``; without ``out``, none is kept.
    """

    source: ClipLike
    first_frame: ImageLike
    mask: MaskSpec | None = None
    references: Mapping[int, ImageLike] = field(default_factory=dict)
    objects: Sequence[EditObject] = ()
    settings: EditSettings = field(default_factory=lambda: make_settings({}))
    out: Path | None = None
    run: Path | None = None

    @property
    def tracks(self) -> bool:
        """True if the mask is made by tracking what the edited frames change."""
        return not self.objects and self.given_mask is None

    @property
    def given_mask(self) -> MaskSpec | None:
        """The mask, or None if it is to be made."""
        automatic = self.mask is None or (isinstance(self.mask, str) and self.mask == "auto")
        return None if automatic else self.mask

    def images(self) -> Iterator[ImageLike]:
        """Returns every edited frame."""
        yield self.first_frame
        yield from self.references.values()
        for each in self.objects:
            yield from each.references.values()

    def masks(self) -> Iterator[MaskSpec]:
        """Returns every mask that is given."""
        if self.given_mask is not None:
            yield self.given_mask
        yield from (each.mask for each in self.objects)

    def reference_indices(self) -> list[Any]:
        """Returns the frame indices of all references, those of objects included; nothing has checked their type."""
        return [*self.references, *(index for each in self.objects for index in each.references)]
