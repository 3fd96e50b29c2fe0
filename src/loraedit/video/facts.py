"""Reads what a video file states beside its pictures: orientation, colour, pixel aspect, timing."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from av.container import InputContainer
from av.stream import Discard, Stream
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange
from av.video.stream import VideoStream

from loraedit.types import Colour, Origin, Stored
from loraedit.video.marking import fields_of

__all__ = [
    "BT709",
    "CONVERTIBLE",
    "RGB",
    "UNSAID",
    "Shown",
    "Turn",
    "average_rate",
    "colour_of",
    "matrix_of",
    "only",
    "origin_of",
    "shown",
    "turn_of",
]

BT709 = Colour(matrix=1, full_range=False, primaries=1, transfer=1)
"""The colour coding of clips that come from no video file."""

CONVERTIBLE = {1: 1, 4: 4, 5: 5, 6: 5, 7: 7, 9: 9}
"""Matrices that can be converted in both directions, with swscale's numbers for them."""

RGB, UNSAID = 0, 2
"""``RGB`` is a matrix code; ``UNSAID`` is the unspecified value of any tag."""

_WRONG_FRAMES = Fraction(1, 10)
_LONGEST_S = 31 * 24 * 3600  # timestamps of a clip that claims to last longer are ignored
_LEAST_RATE = Fraction(1, 100_000)
_BT601, _HD_HEIGHT = 6, 720
_ONE = 1 << 16  # 1.0 in a display matrix


def only(container: InputContainer, *wanted: Stream) -> None:
    """Reads no other streams, so that damage in them does not hide later packets."""
    for stream in container.streams:
        stream.discard = Discard.default if stream in wanted else Discard.all


class Turn(NamedTuple):
    """Describes how stored frames become upright: mirrored left to right, then turned counterclockwise."""

    mirrored: bool
    quarters: int

    def apply(self, pixels: Stored) -> Stored:
        """Returns the upright frame."""
        return np.ascontiguousarray(np.rot90(pixels[:, ::-1] if self.mirrored else pixels, self.quarters))

    def undo(self, pixels: Stored) -> Stored:
        """Returns the stored frame of an upright one."""
        turned = np.rot90(pixels, -self.quarters)
        return np.ascontiguousarray(turned[:, ::-1] if self.mirrored else turned)

    @property
    def matrix(self) -> tuple[int, ...]:
        """Returns the turn as a display matrix."""
        a, b, c, d = ((1, 0, 0, 1), (0, -1, 1, 0), (-1, 0, 0, -1), (0, 1, -1, 0))[self.quarters]
        side = -1 if self.mirrored else 1
        return side * a * _ONE, side * b * _ONE, 0, c * _ONE, d * _ONE, 0, 0, 0, 1 << 30


class Shown(NamedTuple):
    """Holds when a frame is shown, in the time base of its stream; None if the file does not state it."""

    pts: int | None
    duration: int


def matrix_of(frame: VideoFrame) -> tuple[int, ...] | None:
    """Returns a frame's display matrix, or None."""
    data: Any = frame.side_data.get("DISPLAYMATRIX")
    return None if data is None else tuple(np.frombuffer(data, np.int32).tolist())


def turn_of(matrix: tuple[int, ...] | None) -> Turn:
    """Returns the turn nearest to a display matrix ``[a b . c d .]``: ``x' = ax + cy``, ``y' = bx + dy``."""
    if matrix is None:
        return Turn(False, 0)
    a, b, _, c, d = matrix[:5]
    if abs(a) + abs(d) >= abs(b) + abs(c):
        right, down = a >= 0, d >= 0
        return Turn(right != down, 0 if down else 2)
    mirrored = (b > 0) == (c > 0)
    return Turn(mirrored, 1 if (b < 0) != mirrored else 3)


def colour_of(frame: VideoFrame) -> Colour:
    """Returns how a decoded frame codes colour.

    Untagged YUV counts as BT.601 below 720 lines and as BT.709 from there on, as in players.
    """
    full = frame.color_range == ColorRange.JPEG or frame.format.name.startswith("yuvj")
    if frame.format.is_rgb:
        return Colour(RGB, False, *_light(frame))
    matrix: int = frame.colorspace
    if matrix == UNSAID:
        matrix = BT709.matrix if frame.height >= _HD_HEIGHT else _BT601
    return Colour(matrix, full, *_light(frame))


def _light(frame: VideoFrame) -> tuple[int, int]:
    return int(frame.color_primaries), int(frame.color_trc)


def shown(frame: VideoFrame) -> Shown:
    """Returns when a decoded frame is shown."""
    return Shown(frame.pts, frame.duration or 0)


def origin_of(
    path: Path, container: InputContainer, stream: VideoStream, first: VideoFrame, times: list[Shown], fps: Fraction
) -> Origin:
    """Returns the facts of a file whose frames have all been decoded."""
    start = max(Fraction(container.start_time or 0, 1_000_000), Fraction(0))  # a codec's lead-in lies before zero
    pts, time_base, last = _timing(times, stream, fps, start)
    return Origin(
        path=path.resolve(),
        pts=pts,
        time_base=time_base,
        last=last,
        start=min(start, pts[0] * time_base),
        matrix=matrix_of(first),
        pixel_aspect=stream.sample_aspect_ratio or Fraction(1),
        colour=colour_of(first),
        fields=fields_of(first, stream.codec_context.field_order),
    )


def average_rate(stated: Fraction, origin: Origin) -> Fraction:
    """Returns the average frame rate: the stated one, or the measured one if the two differ much.

    FFmpeg states a wrong rate for an uneven .mp4, because it sees the frames in decoding order.
    """
    length = (origin.pts[-1] - origin.pts[0] + origin.last) * origin.time_base
    as_stated = abs(len(origin.pts) / stated - length) * stated < _WRONG_FRAMES
    return max(stated if as_stated else len(origin.pts) / length, _LEAST_RATE)


def _timing(
    times: list[Shown], stream: VideoStream, fps: Fraction, start: Fraction
) -> tuple[tuple[int, ...], Fraction, int]:
    """Returns timestamps, their unit, and the last frame's duration; even ones at ``fps`` if the file's are invalid."""
    pts = tuple(each.pts for each in times if each.pts is not None)
    rising = len(pts) == len(times) and all(one < other for one, other in pairwise(pts))
    if not rising or not stream.time_base or (pts[-1] - pts[0]) * stream.time_base > _LONGEST_S:
        begin = round(start * fps)
        return tuple(range(begin, begin + len(times))), 1 / fps, 1
    last = times[-1].duration
    if stream.container.format.name.startswith("mov"):  # .mp4 gives a frame the duration of its place in coding order
        left = (stream.start_time or 0) + (stream.duration or 0) - pts[-1]
        last = left if left > 0 else last
    if not 0 < last * stream.time_base < _LONGEST_S:
        last = max(1, round(1 / fps / stream.time_base))
    return pts, stream.time_base, last
