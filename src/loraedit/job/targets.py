"""Edit targets: the whole edit of a clip, or one of several objects, each in a window of its own.

Targets are generated one after the other and laid over each other in their order: where two overlap, the later one is
seen, and it is generated on top of those before it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from loraedit.job.edits import changed
from loraedit.job.segments import Segment
from loraedit.job.window import Window
from loraedit.masks.tube import MaskTube
from loraedit.runs.kept import KeptObject
from loraedit.types import Footage, Image, Plane

__all__ = ["EditTarget", "Texts", "edit_targets"]


@dataclass(frozen=True)
class Texts:
    """The texts that the model gets with a target, each with the trigger word.

    Attributes:
        source: of the source.
        edited: of the edit.
        references: captions of references by frame index.
    """

    source: str
    edited: str
    references: dict[int, str] = field(default_factory=dict)

    def reference(self, index: int) -> str:
        """Returns the text of a reference: a caption of it, or else the text of the edit."""
        return self.references.get(index, self.edited)


@dataclass(frozen=True)
class EditTarget:
    """What is edited in one go.

    Attributes:
        mask: one plane for each frame, True = edit.
        window: the part of the frame that the model sees; it contains the mask.
        keyframes: the edited frames by frame index, uint8 ``[H, W, 3]``, the first frame among them.
        texts: the texts of what the model sees.
        parts: where a keyframe counts that shows more than this target, by frame index, bool ``[H, W]``; elsewhere the
            pixels below are used.
    """

    mask: MaskTube
    window: Window
    keyframes: dict[int, Image]
    texts: Texts
    parts: dict[int, Plane] = field(default_factory=dict)

    def edits(self, segment: Segment) -> bool:
        """Returns True if anything is edited in a segment."""
        return any(self.mask.box(index) for index in range(segment.start, segment.stop))

    @property
    def references(self) -> list[int]:
        """Frame indices of the keyframes after the first, in the order in which they are learnt."""
        return [index for index in self.keyframes if index]

    def keyframe(self, index: int, below: Image) -> Image:
        """Returns the window's part of a keyframe, uint8 ``[h, w, 3]``: this target's pixels over those below.

        Args:
            index: frame index of the keyframe.
            below: the window's part of the frame below, uint8 ``[h, w, 3]``.
        """
        where, part = self.window.at(index), self.parts.get(index)
        image: Image = self.keyframes[index][where]
        return image if part is None else np.where(part[where][..., None], image, below)


def edit_targets(
    edited: Mapping[int, Image],
    objects: Sequence[KeptObject],
    edit_mask: MaskTube,
    source: Footage,
    window: Callable[[MaskTube], Window],
    texts: Texts,
) -> tuple[EditTarget, ...]:
    """Returns the targets of an edit: one for each object; without objects, one.

    Args:
        edited: edited frames of everything by frame index, the first frame among them.
        objects: the objects; none has a reference for a frame in ``edited``.
        edit_mask: the mask of everything.
        source: the clip.
        window: chooses the window for a mask.
        texts: the texts of all targets.
    """
    if not objects:
        return (EditTarget(edit_mask, window(edit_mask), dict(edited), texts),)
    return tuple(_target_of(edited, each, edit_mask, source, window(each.mask), texts) for each in objects)


def _target_of(
    edited: Mapping[int, Image], each: KeptObject, edit_mask: MaskTube, source: Footage, window: Window, texts: Texts
) -> EditTarget:
    """Returns an object's target.

    A keyframe of everything counts except where only other objects' masks are. A reference of the object's own need not
    show the other edits, so it counts only where it changes pixels inside the object's mask; elsewhere it would undo
    the targets below.
    """
    shared = {index: image for index, image in edited.items() if not index or each.mask.box(index)}
    parts = {index: each.mask[index] | ~edit_mask[index] for index in shared}
    parts |= {index: each.mask[index] & changed(image, source, index) for index, image in each.keyframes.items()}
    return EditTarget(each.mask, window, shared | each.keyframes, texts, parts)
