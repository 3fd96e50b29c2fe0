"""What a renderer needs to know of an object's form, and how its outline is antialiased."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from pretrain.render.motion import View

__all__ = ["Shape", "Surface", "coverage"]


@dataclass(frozen=True)
class Surface:
    """What n objects show at every pixel of F frames; maps are ``[n, F, H, W]``.

    Attributes:
        cover: share of the pixel that the object covers, in [0, 1].
        u: place on the texture, in [0, 1] from left to right.
        v: place on the texture, in [0, 1] from top to bottom.
        light: how directly the light falls on it, in [0, 1], or None for a flat object.
        start: returns where the same surface point lies in frame 0, x and y of the object's own plane, and whether it
            faces the viewer there.
    """

    cover: Tensor
    u: Tensor
    v: Tensor
    light: Tensor | None
    start: Callable[[], tuple[Tensor, Tensor, Tensor]]


class Shape(Protocol):
    """The form of n objects of one kind, and how it changes over time."""

    def surface(self, view: View) -> Surface:
        """Returns what the objects show at every pixel."""

    def reach(self) -> Tensor:
        """Returns how far the objects reach from their centre at most, ``[n]`` in their own unit."""

    def rows(self, index: Tensor) -> Shape:
        """Returns the same of some objects."""


def coverage(edge: Tensor) -> Tensor:
    """Returns how much of a pixel lies inside an outline, from any smooth function that is positive inside.

    Its distance to the outline is its value over its slope from pixel to pixel.
    """
    across = F.pad(edge[..., 2:] - edge[..., :-2], (1, 1)).square_()
    down = F.pad(edge[..., 2:, :] - edge[..., :-2, :], (0, 0, 1, 1)).square_()
    slope = across.add_(down).sqrt_().mul_(0.5).clamp_(min=1e-6)
    return torch.div(edge, slope).add_(0.5).clamp_(0, 1)
