"""A clip cut in time: stretches as long as the model likes them, each of which overlaps the one before.

All but the first begin with frames that are given: they are taken as the stretch before has made them. The rest of the
overlap is made by both, and one fades into the other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from loraedit.video.scaling import padded_length

__all__ = ["Segment", "split", "spread"]


@dataclass(frozen=True)
class Segment:
    """Frames that the model makes at once.

    Attributes:
        start: its first frame.
        stop: one past its last frame.
        given: how many frames at its start are known from the segment before; 0 in the first segment.
    """

    start: int
    stop: int
    given: int

    def __len__(self) -> int:
        return self.stop - self.start

    def __contains__(self, frame: int) -> bool:
        return self.start <= frame < self.stop


TAUGHT_SEGMENTS = 4
"""The most segments of a clip that are learnt from; each costs as much memory and encoding as a short clip."""


def split(frames: int, longest: int, step: int, temporal: int) -> list[Segment]:
    """Segments of one length that cover a clip, evenly spread.

    At least a quarter of the frames of a segment overlap those of the one before, and about half of these are given.

    Args:
        frames: of the clip, at least 1.
        longest: the most frames of a segment, at least ``step + 1``.
        step: clips of the model have ``step * n + 1`` frames.
        temporal: frames per latent frame; given frames fill whole latent frames.
    """
    if padded_length(frames, step) <= longest:
        return [Segment(0, frames, 0)]
    most = (longest - 1) // step * step + 1
    overlap = (most - 1) // (4 * step) * step + 1
    given = (overlap - 1) // 2 // temporal * temporal + 1
    count = math.ceil((frames - overlap) / (most - overlap))
    length = padded_length(math.ceil((frames + (count - 1) * overlap) / count), step)
    starts = [round(index * (frames - length) / (count - 1)) for index in range(count)]
    return [Segment(start, start + length, given if start else 0) for start in starts]


def spread(segments: Sequence[Segment], most: int) -> list[Segment]:
    """Up to so many of the segments, evenly spread over the clip, the first and the last among them."""
    count = min(most, len(segments))
    return [segments[round(index * (len(segments) - 1) / max(count - 1, 1))] for index in range(count)]
