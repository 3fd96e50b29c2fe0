"""Prepares the segments of a target, each while the device works on the one before."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from loraedit.editing.ahead import Ahead
from loraedit.editing.prepared_segment import PreparedSegment
from loraedit.editing.target_clip import TargetClip
from loraedit.job.segments import Segment
from loraedit.types import OnStep, no_step

__all__ = ["Preparation"]


class Preparation:
    """Prepares segments of a target's clip, ahead or on demand.

    Args:
        ahead: computes ahead, for all targets of the edit.
        clip: the target's clip.
        prepare: :func:`loraedit.editing.prepared_segment.prepare_training` or ``prepare_generation``.
        carries: whether keyframes are to be carried.
    """

    def __init__(
        self,
        ahead: Ahead,
        clip: TargetClip,
        prepare: Callable[[TargetClip, Segment, bool, OnStep], PreparedSegment],
        carries: bool,
    ) -> None:
        self.carries = carries
        self._ahead, self._prepare = ahead, prepare
        self._clip, self._clip_ahead = clip, clip.for_another_thread()

    def start(self, segment: Segment | None) -> None:
        """Starts to prepare a segment ahead; None is the end of the clip."""
        if segment is not None:
            self._ahead.start((self, segment), partial(self._prepare, self._clip_ahead, segment, self.carries))

    def take(self, segment: Segment, on_step: OnStep = no_step) -> PreparedSegment:
        """Returns a prepared segment. It is not kept."""
        return self._ahead.take((self, segment), partial(self._prepare, self._clip, segment, self.carries), on_step)
