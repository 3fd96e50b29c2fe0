"""A keyframe as the propagation takes it."""

from __future__ import annotations

from dataclasses import dataclass

from loraedit.optical_flow.fields import Field
from loraedit.propagation.added_parts import ShapeChange
from loraedit.types import Image

__all__ = ["Keyframe"]


@dataclass(frozen=True)
class Keyframe:
    """A frame to carry along the motion of a source clip.

    Attributes:
        index: frame index, from the first frame of the clip that is carried to. An index below 0, or at or above the
            clip's length, is a frame outside of that clip; it needs a ``path``.
        image: uint8 ``[H, W, 3]``, what is carried.
        source: uint8 ``[H, W, 3]``, the unedited frame of the same index.
        is_source: whether ``image`` is the source's own. It is carried as it is then, so that a LoRA that learns from
            it sees the errors of the flow; an edit is combined with the source where it changed little.
        generated: whether the model generated ``image``. It counts less than what the user edited.
        path: for a keyframe outside of the clip, the flow path from the nearest frame of the clip to the keyframe:
            ``[h, w, 2]``, x and y offsets as shares of the frame's width and height, at any size.
        shape: for a keyframe outside of the clip, how it changes the outline of an object; within the clip it is found
            there.
    """

    index: int
    image: Image
    source: Image
    is_source: bool = False
    generated: bool = False
    path: Field | None = None
    shape: ShapeChange | None = None
