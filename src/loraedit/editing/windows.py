"""Reads a target's window from a clip, a span of frames at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from loraedit.job.window import Window
from loraedit.types import Frames, Image

__all__ = ["ReadFrames", "WindowReader"]

ReadFrames = Callable[[int, int | None], Iterator[Image]]
"""Yields the frames of a clip, uint8 ``[H, W, 3]``, from a start up to a stop, which is excluded; None is the end."""

BLOCK_FRAMES = 32
"""Frames that are read at once to go through a clip backwards."""


class WindowReader:
    """Reads a window of a clip.

    The span that was read last is kept, so that the frames that two neighbouring segments share are decoded once.

    Args:
        window: the part of each frame that is read.
        read_frames: reads whole frames.
    """

    def __init__(self, window: Window, read_frames: ReadFrames) -> None:
        self._window, self._read_frames = window, read_frames
        self._kept_start, self._kept = 0, list[Image]()

    def another(self) -> WindowReader:
        """Returns a reader of the same frames for another thread."""
        return WindowReader(self._window, self._read_frames)

    def span(self, start: int, stop: int) -> Frames:
        """Reads the frames from ``start`` up to ``stop``, uint8 ``[F, h, w, 3]``."""
        known = self._kept_start <= start < self._kept_start + len(self._kept)
        frames = self._kept[start - self._kept_start : stop - self._kept_start] if known else []
        missing = start + len(frames)
        if missing < stop:
            frames += [frame.copy() for frame in self._windows(missing, stop)]
            self._kept_start, self._kept = start, frames
        return np.stack(frames)

    def frame(self, index: int) -> Image:
        """Reads one frame, uint8 ``[h, w, 3]``."""
        image: Image = self.span(index, index + 1)[0]
        return image

    def forwards(self, index: int) -> Iterator[Image]:
        """Yields the frames from ``index`` to the end of the clip."""
        return self._windows(index, None)

    def backwards(self, index: int) -> Iterator[Image]:
        """Yields the frames from ``index`` to the start of the clip."""
        for stop in range(index + 1, 0, -BLOCK_FRAMES):
            yield from self.span(max(stop - BLOCK_FRAMES, 0), stop)[::-1]

    def _windows(self, start: int, stop: int | None) -> Iterator[Image]:
        for index, frame in enumerate(self._read_frames(start, stop), start):
            yield frame[self._window.at(index)]
