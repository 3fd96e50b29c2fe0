"""Cuts a clip in time into segments of the model's preferred length, each of which overlaps the one before.

All but the first segment start with fixed frames, taken from the result of the segment before. Both segments generate
the rest of the overlap, and one fades into the other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from loraedit.errors import InputError
from loraedit.families.card import ModelCard
from loraedit.settings import ResolvedSettings
from loraedit.types import Size
from loraedit.video.scaling import padded_length

__all__ = ["Segment", "cut_in_time", "split", "spread"]


@dataclass(frozen=True)
class Segment:
    """Frames that the model generates at once.

    Attributes:
        start: its first frame.
        stop: one past its last frame.
        fixed: number of fixed frames at its start, known from the segment before; 0 in the first segment.
    """

    start: int
    stop: int
    fixed: int

    def __len__(self) -> int:
        return self.stop - self.start

    def __contains__(self, frame: int) -> bool:
        return self.start <= frame < self.stop


TRAINING_SEGMENTS = 4
"""Maximum number of segments to train on; each costs as much memory and encoding as a short clip."""


def split(frames: int, longest: int, step: int, temporal: int) -> list[Segment]:
    """Covers a clip with evenly spread segments of one length.

    At least a quarter of the frames of a segment overlap those of the one before, and about half of these are fixed.

    Args:
        frames: number of frames of the clip, at least 1.
        longest: maximum number of frames of a segment, at least ``step + 1``.
        step: clips of the model have ``step * n + 1`` frames.
        temporal: frames per latent frame; fixed frames fill whole latent frames.
    """
    if padded_length(frames, step) <= longest:
        return [Segment(0, frames, 0)]
    most = (longest - 1) // step * step + 1
    overlap = (most - 1) // (4 * step) * step + 1
    fixed = (overlap - 1) // 2 // temporal * temporal + 1
    count = math.ceil((frames - overlap) / (most - overlap))
    length = padded_length(math.ceil((frames + (count - 1) * overlap) / count), step)
    starts = [round(index * (frames - length) / (count - 1)) for index in range(count)]
    return [Segment(start, start + length, fixed if start else 0) for start in starts]


def cut_in_time(frames: int, windows: Sequence[Size], settings: ResolvedSettings, card: ModelCard) -> list[Segment]:
    """Cuts a clip into segments; neither they nor a frame exceed the reach of the model's position codes.

    Args:
        frames: number of frames of the clip.
        windows: sizes of what the model sees, in pixels of the clip.

    Raises:
        InputError: the model cannot take frames of that shape or area.
    """
    longest_px = card.max_positions * card.multiple_px
    for window in windows:
        size = card.working_size(window, settings)
        if max(size.height, size.width) > longest_px:
            raise InputError(
                f"A frame of {window} is too narrow or too large: at the model's size a side would have "
                f"{max(size.height, size.width)} pixels, and the maximum is {longest_px}. Crop or pad the clip."
            )
    reach = (card.max_positions - 1) * card.temporal + 1
    longest = max(min(settings.segment_frames, reach), card.frame_step + 1)
    return split(frames, longest, card.frame_step, card.temporal)


def spread(segments: Sequence[Segment], most: int) -> list[Segment]:
    """Returns up to ``most`` of the segments, evenly spread over the clip, the first and the last among them."""
    count = min(most, len(segments))
    return [segments[round(index * (len(segments) - 1) / max(count - 1, 1))] for index in range(count)]
