"""What is edited in one go: all of the clip's edit, or one of several things, each in a window of its own.

Layers are made one after the other and laid over each other in their order: where two overlap, the later one is seen,
and it is made on top of those before it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from loraedit.job.edits import changed
from loraedit.job.segments import Segment
from loraedit.job.window import Window
from loraedit.masks.tube import MaskTube
from loraedit.runs.folder import KeptObject
from loraedit.types import Footage, Image, Plane

__all__ = ["EditTarget", "edit_targets"]


@dataclass(frozen=True)
class EditTarget:
    """One thing that is edited.

    Attributes:
        mask: one plane for each frame, True = edit.
        window: the part of the frame that the model sees; it holds the mask.
        keyframes: the user's edited frames by frame index, uint8 ``[H, W, 3]``, the first frame among them.
        parts: where those of them count that are not of this target alone, bool ``[H, W]``; elsewhere the frame is as
            it lies below.
    """

    mask: MaskTube
    window: Window
    keyframes: dict[int, Image]
    parts: dict[int, Plane] = field(default_factory=dict)

    def edits(self, segment: Segment) -> bool:
        """Whether anything is edited in a segment."""
        return any(self.mask.box(index) for index in range(segment.start, segment.stop))

    @property
    def references(self) -> list[int]:
        """The edited frames after the first, in the order in which they are learnt."""
        return [index for index in self.keyframes if index]

    def keyframe(self, index: int, below: Image) -> Image:
        """The window's part of an edited frame, uint8 ``[h, w, 3]``: what is of this target, over what lies below.

        Args:
            below: the window's part of what lies below, uint8 ``[h, w, 3]``.
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
) -> tuple[EditTarget, ...]:
    """The targets of an edit: one for each object; without objects, one.

    Args:
        edited: edited frames of everything by frame index, the first frame among them.
        objects: with edited frames of their own, none of them in a frame that ``edited`` has.
        edit_mask: the mask of everything.
        source: the clip.
        window: chooses the window for a mask.
    """
    if not objects:
        return (EditTarget(edit_mask, window(edit_mask), dict(edited)),)
    return tuple(_target_of(edited, each, edit_mask, source, window(each.mask)) for each in objects)


def _target_of(
    edited: Mapping[int, Image], each: KeptObject, edit_mask: MaskTube, source: Footage, window: Window
) -> EditTarget:
    """An object's target.

    Of a frame of everything all counts but what lies in the others' masks alone; of a frame of its own, where nothing
    else need be edited, what is changed within its mask, so that it does not undo what lies below.
    """
    shared = {index: image for index, image in edited.items() if not index or each.mask.box(index)}
    parts = {index: each.mask[index] | ~edit_mask[index] for index in shared}
    parts |= {index: each.mask[index] & changed(image, source, index) for index, image in each.keyframes.items()}
    return EditTarget(each.mask, window, shared | each.keyframes, parts)
