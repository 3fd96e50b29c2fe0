"""What the package knows about a setting besides its type, default and help text; it stands on the field itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["PANELS", "About", "Course", "Panel"]

Panel = Literal["Inputs", "Mask", "Model", "Method", "Generation", "Memory", "Output"]
PANELS: tuple[Panel, ...] = ("Inputs", "Mask", "Model", "Method", "Generation", "Memory", "Output")
"""The help panels in the order in which a command shows them."""

Course = Literal["motion", "appearance"]
"""A stretch of training: on the source clip, and then on the references."""


@dataclass(frozen=True)
class About:
    """Metadata of a setting, placed in its ``Annotated`` type.

    Attributes:
        panel: help panel of its option.
        trains: first course of training that the setting can change; later courses continue from that one's LoRA, so
            they change too. None if no LoRA depends on it.
        plan: the setting can change a plan: computing, memory, disk or time.
        path: its text may name a file or folder.
        shapes_mask: it takes part in making the edit mask, and has no effect once the mask is made.
        no_shaping: of such a setting, the value with which a given mask is used as it is.
    """

    panel: Panel
    trains: Course | None = None
    plan: bool = False
    path: bool = False
    shapes_mask: bool = False
    no_shaping: Any = None
