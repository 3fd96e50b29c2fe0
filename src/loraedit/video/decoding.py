"""Decodes a video file, from its beginning or from a key frame."""

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
"""Most pixels of a frame; 8192x8192."""

MAX_SIDE = 1 << 14
"""Most pixels of a frame's longer side; OpenCV moves pixels by 15 bits."""

MAX_FRAMES = 250_000
"""Most frames of a clip; more than two hours at 30 a second."""

METADATA_ERRORS = "surrogateescape"
"""Error handler for titles that are not UTF-8: they are passed on byte for byte."""

_TEXT_DEMUXERS = frozenset({"adf", "bin", "idf", "tty", "xbin"})  # FFmpeg renders any text file as a terminal
_MOST_THREADS = 4  # each thread holds frames of its own


class Decoder:
    """Decodes an open video file.

    Attributes:
        container: the file.
        stream: its first moving picture.
        position: index of the next frame.
        has_sought: True if frames may differ from those that decoding from the beginning gives.
        turn: how frames are turned to be upright; None before the pixels of the first frame were requested.
    """

    def __init__(self, path: Path, turn: Turn | None = None) -> None:
        """Opens a file.

        Args:
            path: the file.
            turn: how its frames are turned, if known.

        Raises:
            InputError: the file has no moving picture, or its frames are too large.
            av.FFmpegError: the file cannot be opened.
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
        """Closes the file and frees its frames at once; the generator holds a reference to them."""
        self._frames = iter(())
        self.container.close()

    def __iter__(self) -> Iterator[VideoFrame]:
        """Yields all frames from here on.

        Raises:
            InputError: the file is damaged, or has too many frames.
            av.FFmpegError: the file is damaged.
        """
        for frame in self._frames:
            self.position += 1
            yield frame

    def check_end(self) -> None:
        """Checks after the last frame that no frame is missing at the end.

        Raises:
            InputError: the file ends early.
        """
        size = self.path.stat().st_size
        if any(entry.pos + entry.size > size for entry in self.stream.index_entries):
            raise damaged(self.path, "its end is missing", self.position)

    def seek(self, pts: int, indices: dict[int, int]) -> bool:
        """Seeks to the key frame at or before a time.

        Args:
            pts: when the wanted frame is shown.
            indices: frame indices by the time at which the frames are shown.

        Returns:
            Whether the index of the next frame is known and not beyond the wanted frame.
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
        """Returns the layout of the file's pixels, taken from one of its frames."""
        return layout_of(frame, self.stream.codec_context.name)

    def pixels(self, frame: VideoFrame, layout: Layout) -> Stored:
        """Returns a frame as upright RGB."""
        if self.turn is None:  # once per file: reading a frame's side data keeps the frame in memory
            self.turn = turn_of(matrix_of(frame))
        return self.turn.apply(stored_pixels(frame, layout, self._reformatter))

    def _decoded(self) -> Iterator[VideoFrame]:
        for packet in self.container.demux(self.stream):
            if packet.is_corrupt:  # the end of a truncated .mp4, which FFmpeg does not report as an error
                raise damaged(self.path, "data is missing", self.position + len(self.stream.decode()))
            yield from packet.decode()
            if self.position > MAX_FRAMES:
                raise InputError(f"{self.path} has more than {MAX_FRAMES} frames. Cut it into shorter clips.")

    def _picture_stream(self) -> VideoStream:
        """Returns the first moving-picture stream, skipping cover art."""
        container, path = self.container, self.path
        kind = container.format.name
        if kind.endswith("_pipe") or kind.startswith("image2"):
            raise InputError(f"{path} is a single image in a format that loraedit does not read. Save it as PNG.")
        if kind in _TEXT_DEMUXERS:
            raise InputError(f"{path} is a text file, not a video. Give a video, or a folder of frames.")
        streams = [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]
        if not streams:
            content = "has sound but no picture" if container.streams.audio else "has no picture"
            raise InputError(f"{path} {content}. Give a file with a video track.")
        stream = streams[0]
        if stream.codec_context is None:
            raise damaged(path, "unknown codec", 0)
        if stream.width * stream.height > MAX_PIXELS or max(stream.width, stream.height) > MAX_SIDE:
            size = Size(stream.height, stream.width)
            raise InputError(f"{path} is {size}, too large to decode safely. Scale the video down.")
        stream.thread_type, stream.thread_count = "AUTO", min(_MOST_THREADS, os.cpu_count() or 1)
        stream.codec_context.options["max_pixels"] = str(MAX_PIXELS)
        only(container, stream)
        return stream


def damaged(path: Path, reason: str, readable: int) -> InputError:
    """Returns the error for a file that breaks off after ``readable`` frames."""
    state = f"and only {readable} of its frames can be decoded" if readable else "or no video at all"
    advice = "Convert it to an H.264 .mp4, or give a folder of frames."
    return InputError(f"{path} cannot be read as a video ({reason}): it is damaged, {state}. {advice}")


def _before(first: VideoFrame, rest: Iterator[VideoFrame]) -> Iterator[VideoFrame]:
    yield first
    yield from rest
