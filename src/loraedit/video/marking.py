"""Reads and writes the fields and the pixel aspect of frames with FFmpeg's filters, since PyAV does neither.

Fields are numbered as in FFmpeg's ``AVFieldOrder``: which of the two is stored first, and which is shown first.
"""

from __future__ import annotations

from fractions import Fraction

import av
from av.filter import Graph
from av.video.frame import VideoFrame

from loraedit.types import Origin

__all__ = ["Marker", "fields_of"]

_WHOLE, _TOP, _BOTTOM = 1, (4, 2), (5, 3)
_IS_TOP_FIRST = ("select", "eq(interlace_type,TOPFIRST)")


def fields_of(frame: VideoFrame, stated: int) -> int:
    """Returns the order of a frame's fields; 1 for a progressive frame.

    FFmpeg states a wrong order per file for some H.264, and a wrong one per frame for PNG, which stores none.
    """
    if not frame.interlaced_frame:
        return _WHOLE
    if frame.format.is_rgb and stated in _TOP + _BOTTOM:
        return stated
    graph = _graph(frame, [_IS_TOP_FIRST])
    graph.vpush(frame)
    try:
        graph.vpull()
    except (av.BlockingIOError, av.EOFError):  # the filter dropped the frame
        return stated if stated in _BOTTOM else _BOTTOM[0]
    return stated if stated in _TOP else _TOP[0]


class Marker:
    """Marks frames of one size and format with the fields and pixel aspect of an origin."""

    def __init__(self, origin: Origin | None) -> None:
        self._filters: list[tuple[str, str]] = []
        self._marking: Graph | None = None
        if origin is not None and origin.pixel_aspect != 1:
            self._filters.append(("setsar", f"{origin.pixel_aspect.numerator}/{origin.pixel_aspect.denominator}"))
        if origin is not None and origin.fields != _WHOLE:
            self._filters.append(("setfield", "tff" if origin.fields in _TOP else "bff"))

    def mark(self, frame: VideoFrame) -> VideoFrame:
        """Returns the same pixels, colour tags and timestamp, marked."""
        if not self._filters:
            return frame
        self._marking = self._marking or _graph(frame, self._filters)
        self._marking.vpush(frame)
        return self._marking.vpull()


def _graph(frame: VideoFrame, filters: list[tuple[str, str]]) -> Graph:
    """Builds a chain of filters for frames of this size and format."""
    graph = Graph()
    unit = frame.time_base or Fraction(1)
    source = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=unit)
    chain = (graph.add(name, value) for name, value in filters)
    graph.link_nodes(source, *chain, graph.add("buffersink")).configure()
    return graph
