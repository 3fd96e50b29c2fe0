"""A clip as trackers see it: full frames on demand, and small frames, matched with each other, in memory."""

from __future__ import annotations

from collections import OrderedDict
from functools import cached_property

from loraedit.optical_flow.base import FlowOptions
from loraedit.optical_flow.fields import Field
from loraedit.tracking.motion import Match, Matcher
from loraedit.tracking.scale import Scale
from loraedit.types import Footage, Image, Size

__all__ = ["View"]

KEPT_BYTES = 256 * 2**20
"""The most flow that is kept in memory, so that it need not be measured again."""


class View:
    """A clip to track in.

    Attributes:
        source: the clip.
        scale: converts between its size and the tracking size.

    Args:
        flow: the options of the flow estimator.
    """

    def __init__(self, source: Footage, flow: FlowOptions | None = None) -> None:
        self.source, self.scale = source, Scale.of(source.size)
        self._options = flow or FlowOptions()
        self._flows: OrderedDict[int, tuple[Field, Field]] = OrderedDict()

    def __len__(self) -> int:
        return len(self.source)

    def frame(self, index: int) -> Image:
        """Reads a frame at the clip's own size, uint8 ``[H, W, 3]``."""
        return next(iter(self.source.rgb(index, index + 1)))

    @cached_property
    def images(self) -> list[Image]:
        """All frames at the tracking size, uint8 ``[h, w, 3]``."""
        return [self.scale.image(frame) for frame in self.source.rgb()]

    @cached_property
    def matcher(self) -> Matcher:
        """Matches the small frames."""
        return Matcher(Size(*self.images[0].shape[:2]), self._options)

    def match(self, earlier: int, later: int) -> Match:
        """Matches two neighbouring frames; ``earlier`` comes first in the direction of tracking."""
        one, other = self.images[earlier], self.images[later]
        onward, home = self._flow(min(earlier, later))
        return self.matcher.match(one, other, *((onward, home) if earlier < later else (home, onward)))

    def _flow(self, index: int) -> tuple[Field, Field]:
        """Returns the flow from a frame to the next, and back."""
        flows = self._flows.pop(index, None)
        if flows is None:
            one, other = self.images[index], self.images[index + 1]
            flows = self.matcher.flow(one, other), self.matcher.flow(other, one)
        self._flows[index] = flows
        while sum(each[0].nbytes + each[1].nbytes for each in self._flows.values()) > KEPT_BYTES:
            self._flows.popitem(last=False)
        return flows
