"""One video file, decoded from its beginning or from a key frame on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import av
from av.container import InputContainer
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from loraedit.errors import InputError
from loraedit.types import Size, Stored
from loraedit.video.facts import Turn, matrix_of, only, turn_of
from loraedit.video.pixels import Layout, layout_of, stored_pixels

__all__ = ["MAX_FRAMES", "MAX_PIXELS", "METADATA_ERRORS", "Decoder", "damaged"]

MAX_PIXELS = 1 << 26
"""Pixels of a frame; 8192x8192."""

MAX_SIDE = 1 << 14
"""Pixels of its longer side; OpenCV moves pixels by 15 bits."""

MAX_FRAMES = 250_000
"""Frames of a clip; more than two hours at 30 a second."""

METADATA_ERRORS = "surrogateescape"
"""How titles that are not UTF-8 are read: to be passed on byte for byte."""

_TEXT_DEMUXERS = frozenset({"adf", "bin", "idf", "tty", "xbin"})  # FFmpeg draws any text file as a terminal
_MOST_THREADS = 4  # each holds frames of its own


class Decoder:
    """An open video file.

    Attributes:
        container: the file.
        stream: its first moving picture.
        position: which frame comes next.
        has_sought: whether frames may differ from those that decoding from the beginning gives.
        turn: how frames are turned to be upright; None before the first one's pixels were asked for.
    """

    def __init__(self, path: Path, turn: Turn | None = None) -> None:
        """Open a file.

        Args:
            path: the file.
            turn: how its frames are turned, if that is known.

        Raises:
            InputError: it holds no moving picture, or one with frames too large to be meant.
            av.FFmpegError: it cannot be opened.
        """
        self.path, self.turn = path, turn
        self._frames: Iterator[VideoFrame] = iter(())
        self.container: InputContainer = av.open(str(path.resolve()), metadata_errors=METADATA_ERRORS)
        try:
            self.stream = self._picture_stream()
        except InputError:
            self.close()
            raise
        self.position, self.has_sought = 0, False
        self._reformatter = VideoReformatter()
        self._frames = self._decoded()

    def close(self) -> None:
        """Let go of the file, and at once of its frames: the generator refers to what holds it."""
        self._frames = iter(())
        self.container.close()

    def __iter__(self) -> Iterator[VideoFrame]:
        """All frames from here on.

        Raises:
            InputError: the file is damaged, or has too many frames.
            av.FFmpegError: the file is damaged.
        """
        for frame in self._frames:
            self.position += 1
            yield frame

    def check_end(self) -> None:
        """After the last frame: whether it was the last of all.

        Raises:
            InputError: the file ends before its time.
        """
        size = self.path.stat().st_size
        if any(entry.pos + entry.size > size for entry in self.stream.index_entries):
            raise damaged(self.path, "its end is missing", self.position)

    def seek(self, pts: int, indices: dict[int, int]) -> bool:
        """Go to a key frame.

        Args:
            pts: when it is shown.
            indices: the frames' numbers by the time at which they are shown.

        Returns:
            Whether the frame that comes next is known, and not later than the one asked for.
        """
        self.has_sought = True
        self.container.seek(pts, stream=self.stream)
        self._frames = self._decoded()
        first = next(self._frames, None)
        if first is None or first.pts is None or first.pts not in indices or first.pts > pts:
            return False
        self.position = indices[first.pts]
        self._frames = _before(first, self._frames)
        return True

    def layout(self, frame: VideoFrame) -> Layout:
        """What the pixels of the file are made of, as one of its frames shows."""
        return layout_of(frame, self.stream.codec_context.name)

    def pixels(self, frame: VideoFrame, layout: Layout) -> Stored:
        """A frame as RGB, upright."""
        if self.turn is None:  # once for a file: to look at a frame's side data keeps the frame in memory for good
            self.turn = turn_of(matrix_of(frame))
        return self.turn.apply(stored_pixels(frame, layout, self._reformatter))

    def _decoded(self) -> Iterator[VideoFrame]:
        for packet in self.container.demux(self.stream):
            if packet.is_corrupt:  # so ends an .mp4 that was cut short; FFmpeg counts it as no error
                raise damaged(self.path, "data is missing", self.position + len(self.stream.decode()))
            yield from packet.decode()
            if self.position > MAX_FRAMES:
                raise InputError(f"{self.path} has more than {MAX_FRAMES} frames. Cut it into shorter clips.")

    def _picture_stream(self) -> VideoStream:
        """The first moving-picture stream, cover art passed over."""
        container, path = self.container, self.path
        kind = container.format.name
        if kind.endswith("_pipe") or kind.startswith("image2"):
            raise InputError(f"{path} is a single image of a kind that is not read. Save it as PNG.")
        if kind in _TEXT_DEMUXERS:
            raise InputError(f"{path} is a text file, not a video. Give a video, or a folder of frames.")
        streams = [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]
        if not streams:
            content = "has sound but no picture" if container.streams.audio else "has no picture"
            raise InputError(f"{path} {content}. Give a file with a video track.")
        stream = streams[0]
        if stream.codec_context is None:
            raise damaged(path, "its codec is not known", 0)
        if stream.width * stream.height > MAX_PIXELS or max(stream.width, stream.height) > MAX_SIDE:
            size = Size(stream.height, stream.width)
            raise InputError(f"{path} is {size}, too large to decode safely. Scale the video down.")
        stream.thread_type, stream.thread_count = "AUTO", min(_MOST_THREADS, os.cpu_count() or 1)
        stream.codec_context.options["max_pixels"] = str(MAX_PIXELS)
        only(container, stream)
        return stream


def damaged(path: Path, reason: str, readable: int) -> InputError:
    """The error for a file that breaks off after some readable frames."""
    state = f"and only {readable} of its frames can be decoded" if readable else "or no video at all"
    advice = "Convert it to an H.264 .mp4, or give a folder of frames."
    return InputError(f"{path} cannot be read as a video ({reason}): it is damaged, {state}. {advice}")


def _before(first: VideoFrame, rest: Iterator[VideoFrame]) -> Iterator[VideoFrame]:
    yield first
    yield from rest
