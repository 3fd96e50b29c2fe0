"""Reads videos, folders of frames and stills, on demand or at once.

Opening a clip decodes it completely once, so that damage is found before any work begins. It keeps figures and a hash
of each frame, against which every later reading is checked.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.frame import VideoFrame

from loraedit.errors import InputError
from loraedit.storage.files import check_plain
from loraedit.types import (
    Clip,
    Footage,
    Image,
    OnStep,
    Origin,
    Size,
    Stored,
    frame_hash,
    joint_hash,
    no_step,
)
from loraedit.video.decoding import Decoder, damaged
from loraedit.video.facts import Shown, Turn, average_rate, origin_of, shown
from loraedit.video.images import IMAGE_SUFFIXES, check_image, read_stored
from loraedit.video.pixels import Layout, conform, to_rgb

__all__ = ["DEFAULT_FPS", "check_footage", "open_footage", "read_clip"]

DEFAULT_FPS = Fraction(24)
"""Frames per second of a folder of frames, which states no rate."""

_SEEK_FROM = 8  # up to this distance decoding is faster than seeking

_See = Callable[[Stored], object]


def open_footage(path: Path, on_step: OnStep = no_step) -> Footage:
    """Opens a video file, a folder of frames in the natural order of their names (2 before 10), or a still.

    Rotation metadata is applied, so that frames are upright. A folder and a still play at ``DEFAULT_FPS``. A video has
    its average rate, and an origin with its timestamps, tags and path.

    Args:
        path: a video file that FFmpeg can decode; or a PNG, JPEG, WebP, BMP or TIFF file, or a folder of them.
        on_step: called with (done, total) while all frames are decoded once; a video's total is an estimate.

    Returns:
        Footage of at least one frame. Its memory does not grow with its length. Consecutive spans are decoded once; for
        other spans, decoding starts at the nearest key frame that reproduces the same frames.

    Raises:
        InputError: there is no file, it is no video, it is damaged, it has no frames or too many, its frames differ in
            size or are too large; or, on a later read, it has changed since it was opened.
    """
    return _open(path, on_step, lambda _: None)


def check_footage(path: Path) -> None:
    """Checks that a video, a folder of frames or a still is there, from its headers alone; no frame is decoded.

    Raises:
        InputError: there is nothing that :func:`open_footage` could open.
    """
    names = _files_of(path)
    if names is not None:
        check_image(names[0])
        return
    try:
        Decoder(path).close()
    except av.FFmpegError as error:
        raise damaged(path, str(error.strerror), 0) from error


def read_clip(path: Path, on_step: OnStep = no_step) -> Clip:
    """Reads a clip that :func:`open_footage` can open into memory, as 8-bit RGB without opacity.

    Returns:
        The clip, frames ``[F, H, W, 3]`` uint8 RGB, F at least 1.

    Raises:
        InputError: as :func:`open_footage`.
    """
    frames: list[Image] = []
    footage = _open(path, on_step, lambda pixels: frames.append(to_rgb(pixels)))
    return Clip(np.stack(frames), footage.fps, footage.origin, footage.timed)


def _open(path: Path, on_step: OnStep, see: _See) -> Footage:
    path = Path(path)
    names = _files_of(path)
    return _open_video(path, on_step, see) if names is None else _open_images(path, names, on_step, see)


def _files_of(path: Path) -> list[Path] | None:
    """Returns the image files of a folder or a still; None for a video.

    Raises:
        InputError: there is no such file, or the folder holds no images.
    """
    if path.is_dir():
        return _frames_in(path)
    if not path.is_file():
        raise InputError(f"There is no video file or folder of frames at {path}. Check the path.")
    check_plain(path, "a video")
    return [path] if path.suffix.lower() in IMAGE_SUFFIXES else None


class _OnDisk(ABC):
    """Holds what is known of footage on disk once it has been decoded; implements :class:`loraedit.types.Footage`."""

    timed = True

    def __init__(
        self, path: Path, size: Size, fps: Fraction, origin: Origin | None, layout: Layout, hashes: list[bytes]
    ) -> None:
        self.path, self.size, self.fps, self.origin = path, size, fps, origin
        self.depth, self.alpha = layout
        self.fingerprint = joint_hash(hashes)
        self._layout, self._hashes = layout, hashes

    def __len__(self) -> int:
        return len(self._hashes)

    def rgb(self, start: int = 0, stop: int | None = None) -> Iterator[Image]:
        """Yields the frames of a span as people and models see them."""
        return map(to_rgb, self.exact(start, stop))

    def exact(self, start: int = 0, stop: int | None = None) -> Iterator[Stored]:
        """Yields the frames of a span as they are stored."""
        start, stop, _ = slice(start, stop).indices(len(self))
        return self._span(start, stop)

    @abstractmethod
    def _span(self, start: int, stop: int) -> Iterator[Stored]: ...

    def _as_before(self, index: int, pixels: Stored) -> bool:
        return frame_hash(pixels) == self._hashes[index]

    def _changed(self) -> InputError:
        return InputError(f"{self.path} was changed while it was in use. Run the command again.")


# ---- folders and stills ----------------------------------------------------------------------------------------------


class _Images(_OnDisk):
    """Reads image files."""

    timed = False

    def __init__(self, path: Path, names: list[Path], size: Size, layout: Layout, hashes: list[bytes]) -> None:
        super().__init__(path, size, DEFAULT_FPS, None, layout, hashes)
        self._names = names

    def _span(self, start: int, stop: int) -> Iterator[Stored]:
        for index in range(start, stop):
            pixels = conform(read_stored(self._names[index]), self._layout)
            if not self._as_before(index, pixels):
                raise self._changed()
            yield pixels


def _open_images(path: Path, names: list[Path], on_step: OnStep, see: _See) -> Footage:
    """Opens images of one size. If their layouts differ, reads them again in a layout that holds all of them."""
    hashes, layouts = list[bytes](), list[Layout]()
    for done, name in enumerate(names, 1):
        pixels = read_stored(name)
        size = Size(*pixels.shape[:2])
        if done == 1:
            first = size
        _check_one_size(size, str(name), first, str(names[0]))
        layouts.append(Layout(16 if pixels.dtype == np.uint16 else 8, pixels.shape[-1] == 4))
        hashes.append(frame_hash(pixels))
        see(pixels)
        on_step(done, len(names))
    layout = Layout(max(each.depth for each in layouts), any(each.alpha for each in layouts))
    if set(layouts) != {layout}:
        hashes = [frame_hash(conform(read_stored(name), layout)) for name in names]
    return _Images(path, names, first, layout, hashes)


def _frames_in(path: Path) -> list[Path]:
    """Returns a folder's images, without hidden files."""
    names = [entry for entry in path.iterdir() if entry.suffix.lower() in IMAGE_SUFFIXES and entry.name[0] != "."]
    if not names:
        raise InputError(f"The folder {path} holds no frames. Put PNG, JPEG, WebP, BMP or TIFF images into it.")
    return sorted(names, key=_natural_order)


def _natural_order(path: Path) -> tuple[list[str | int], str]:
    parts = re.split(r"(\d+)", path.name.lower())
    return [int(part) if index % 2 else part for index, part in enumerate(parts)], path.name


def _check_one_size(size: Size, name: str, first: Size, first_name: str) -> None:
    if size != first:
        raise InputError(f"{name} is {size}, but {first_name} is {first}. Give all frames of a clip the same size.")


# ---- video files -----------------------------------------------------------------------------------------------------


class _Video(_OnDisk):
    """Reads a video file, from several threads if need be. The decoder stays open after a span, for the next one."""

    def __init__(
        self, path: Path, size: Size, fps: Fraction, origin: Origin, layout: Layout, hashes: list[bytes],
        keys: list[int], pts: list[int | None], turn: Turn | None,
    ) -> None:  # fmt: skip
        super().__init__(path, size, fps, origin, layout, hashes)
        self._keys, self._pts, self._turn = keys, pts, turn
        self._indices = {at: index for index, at in enumerate(pts) if at is not None}
        self._exact_seek = len(self._indices) == len(pts)
        self._idle: deque[Decoder] = deque(maxlen=1)

    def _span(self, start: int, stop: int) -> Iterator[Stored]:
        decoder = self._idle_decoder()
        try:
            for index in range(start, stop):
                decoder, pixels = self._take(decoder, index)
                yield pixels
        except av.FFmpegError as error:
            raise self._changed() from error
        finally:
            if decoder is not None and decoder.position < len(self):
                self._keep(decoder)
            elif decoder is not None:
                decoder.close()

    def _keep(self, decoder: Decoder) -> None:
        while (before := self._idle_decoder()) is not None:
            before.close()
        self._idle.append(decoder)

    def _idle_decoder(self) -> Decoder | None:
        """Takes the idle decoder, so that no other span, in this thread or another, uses it too."""
        try:
            return self._idle.pop()
        except IndexError:
            return None

    def _take(self, decoder: Decoder | None, index: int) -> tuple[Decoder, Stored]:
        """Returns a frame, and the decoder to continue with: the given one, one that sought, or a new one."""
        if decoder is None or decoder.position > index or self._key_before(index) > decoder.position + _SEEK_FROM:
            decoder = self._sought(decoder, index)
        pixels = self._next(decoder, index)
        if pixels is None and decoder.has_sought:
            self._exact_seek = False
            decoder.close()
            decoder = Decoder(self.path, self._turn)
            pixels = self._next(decoder, index)
        if pixels is None:
            decoder.close()
            raise self._changed()
        return decoder, pixels

    def _key_before(self, index: int) -> int:
        place = bisect_right(self._keys, index)
        return self._keys[place - 1] if place else 0

    def _sought(self, decoder: Decoder | None, index: int) -> Decoder:
        key = self._key_before(index)
        at = self._pts[key]
        if key and at is not None and self._exact_seek:
            decoder = decoder or Decoder(self.path, self._turn)
            if decoder.seek(at, self._indices):
                return decoder
        if decoder is not None:
            decoder.close()
        return Decoder(self.path, self._turn)

    def _next(self, decoder: Decoder, index: int) -> Stored | None:
        """Decodes up to a frame ahead; returns None if it differs from the frame seen when the file was opened."""
        for frame in decoder:
            if decoder.position == index + 1:
                pixels = decoder.pixels(frame, self._layout)
                return pixels if self._as_before(index, pixels) else None
        return None


def _open_video(path: Path, on_step: OnStep, see: _See) -> Footage:
    hashes: list[bytes] = []
    try:
        with closing(Decoder(path)) as decoder:
            return _scan(decoder, hashes, on_step, see)
    except av.FFmpegError as error:
        raise damaged(path, str(error.strerror), len(hashes)) from error


def _scan(decoder: Decoder, hashes: list[bytes], on_step: OnStep, see: _See) -> Footage:
    """Decodes every frame once, and appends to ``hashes`` on the way."""
    path, times, keys = decoder.path, list[Shown](), list[int]()
    first: VideoFrame | None = None
    total = _expected(decoder)
    for frame in decoder:
        first = first or frame
        pixels = decoder.pixels(frame, decoder.layout(first))
        size = Size(*pixels.shape[:2])
        if not hashes:
            whole = size
        _check_one_size(size, f"frame {len(hashes) + 1} of {path}", whole, f"frame 1 of {path}")
        if frame.key_frame:
            keys.append(len(hashes))
        hashes.append(frame_hash(pixels))
        times.append(shown(frame))
        see(pixels)
        on_step(len(hashes), max(total, len(hashes)))
    decoder.check_end()
    if first is None:
        raise InputError(f"{path} holds no frame that can be decoded. Export the video again.")
    stream = decoder.stream
    fps = Fraction(stream.average_rate or stream.guessed_rate or DEFAULT_FPS)
    origin = origin_of(path, decoder.container, stream, first, times, fps)
    pts = [each.pts for each in times]
    layout = decoder.layout(first)
    return _Video(path, whole, average_rate(fps, origin), origin, layout, hashes, keys, pts, decoder.turn)


def _expected(decoder: Decoder) -> int:
    """Returns the approximate number of frames that a file states; 0 if it states none."""
    stream, duration = decoder.stream, decoder.container.duration
    if stream.frames or duration is None or not stream.average_rate:
        return stream.frames
    return round(duration * stream.average_rate / 1_000_000)
