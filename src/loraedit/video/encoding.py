"""RGB frames to a video file, with the timing, colour, pixel aspect and extras of the file they came from."""

from __future__ import annotations

import heapq
import os
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
from av.codec.context import Flags
from av.container import OutputContainer
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange
from av.video.stream import VideoStream

from loraedit.types import Clip, Colour, Image
from loraedit.video.copying import Extras, Timed, open_extras
from loraedit.video.facts import BT709, CONVERTIBLE
from loraedit.video.formats import Encoding, Kind
from loraedit.video.reading import BICUBIC_EXACT, METADATA_ERRORS

__all__ = ["write_video"]

_SLICED_PX = 8  # FFV1 finds no way to slice frames that are narrower than a few pixels
_THREADS = 4  # fixed: x264's bytes depend on the number of threads, and machines differ
_SHORTEST_TICK = Fraction(1, 1_000_000)


def write_video(path: Path, clip: Clip, kind: Kind) -> list[str]:
    """Write a file; what cannot be copied of the clip's origin never costs the picture.

    Returns:
        One sentence for each thing of the origin that is missing.
    """
    if clip.origin is None:
        _write(path, clip, kind, None)
        return []
    notes = _aspect_notes(clip.origin.pixel_aspect, kind)
    try:
        with open_extras(clip.origin, kind.container) as extras:
            _write(path, clip, kind, extras)
            return [*notes, *extras.notes]
    except (av.FFmpegError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        notes.append(f"Sound and titles of {clip.origin.path.name} could not be copied: {reason}.")
    _write(path, clip, kind, None)
    return notes


def _aspect_notes(aspect: Fraction, kind: Kind) -> list[str]:
    """PyAV cannot set the field of .mkv; in H.264 and H.265 the picture itself says it."""
    if aspect == 1 or kind.container.muxer != "matroska" or kind.encoding.encoder in ("libx264", "libx265"):
        return []
    return [
        f"The source's pixels are {aspect.numerator}:{aspect.denominator}, which this kind of .mkv does not say. "
        "An --out that ends in .mov, with --codec png, is lossless and does."
    ]


def _write(path: Path, clip: Clip, kind: Kind, extras: Extras | None) -> None:
    container = kind.container
    with av.open(
        str(path), "w", format=container.muxer, options=container.options, metadata_errors=METADATA_ERRORS
    ) as output:
        ticks, time_base = _clock(clip)
        stream = _declare(output, clip, kind, ticks, time_base)
        if extras is not None:
            extras.declare(output, stream)
        copied = extras.packets() if extras else iter(())
        for _, packet in heapq.merge(_coded(stream, clip, kind, ticks), copied, key=lambda timed: timed[0]):
            output.mux(packet)


# ---- timing ----------------------------------------------------------------------------------------------------------


def _clock(clip: Clip) -> tuple[list[int], Fraction]:
    """When each frame begins, and the last one ends, in units of a time base: the origin's, from the file's start.

    Timestamps that are even but for the rounding of their time base are made quite even.
    """
    frame = 1 / clip.fps.limit_denominator(100_000)
    even = list(range(len(clip) + 1))
    if clip.origin is None:
        return even, frame
    unit = clip.origin.time_base
    times = [pts * unit - clip.origin.start for pts in clip.origin.pts]
    times.append(times[-1] + clip.origin.last * unit)
    rounding = unit if 8 * unit <= frame else Fraction(0)
    if all(time == index * frame or abs(time - index * frame) < rounding for index, time in enumerate(times)):
        return even, frame
    tick = max(unit, _SHORTEST_TICK)
    return [round(time / tick) for time in times], tick


def _coded(stream: VideoStream, clip: Clip, kind: Kind, ticks: list[int]) -> Iterator[Timed]:
    """The picture's packets, with the time at which each is decoded."""
    durations = {start: end - start for start, end in pairwise(ticks)}
    time_base, colour = stream.codec_context.time_base, _colour(clip, kind.encoding)
    for pixels, start in zip(clip.frames, ticks, strict=False):
        coded = _coded_frame(pixels, kind.encoding, colour)
        coded.pts, coded.time_base = start, time_base
        yield from _timed(stream, coded, durations)
    yield from _timed(stream, None, durations)


def _timed(stream: VideoStream, frame: VideoFrame | None, durations: dict[int, int]) -> Iterator[Timed]:
    for packet in stream.encode(frame):
        assert packet.pts is not None and packet.dts is not None and packet.time_base is not None
        packet.duration = durations.get(packet.pts, packet.duration)
        yield float(packet.dts * packet.time_base), packet


# ---- the encoder -----------------------------------------------------------------------------------------------------


def _declare(output: OutputContainer, clip: Clip, kind: Kind, ticks: list[int], time_base: Fraction) -> VideoStream:
    """Tell the encoder what is coming."""
    os.environ.setdefault("SVT_LOG", "1")  # SVT-AV1 writes its settings to standard error otherwise
    encoding, colour = kind.encoding, _colour(clip, kind.encoding)
    first = _coded_frame(clip.frames[0], encoding, colour)
    options = _options(encoding, ticks, min(first.height, first.width))
    stream = output.add_stream(encoding.encoder, rate=clip.fps.limit_denominator(100_000), options=options)
    assert isinstance(stream, VideoStream)
    stream.height, stream.width, stream.pix_fmt = first.height, first.width, encoding.pixels
    context = stream.codec_context
    context.time_base, context.thread_count = time_base, _THREADS
    context.flags |= Flags.bitexact
    if clip.origin is not None:
        context.sample_aspect_ratio = clip.origin.pixel_aspect
    if encoding.tag and kind.container.muxer != "matroska":
        context.codec_tag = encoding.tag
    if not encoding.is_rgb:
        context.colorspace, context.color_range = colour.matrix, _range(colour)
    if not encoding.is_rgb or clip.origin is not None:
        context.color_primaries, context.color_trc = colour.primaries, colour.transfer
    return stream


def _options(encoding: Encoding, ticks: list[int], side: int) -> dict[str, str]:
    """The encoder's options for clips of any length, size and timing.

    Frames stay in order where .mp4 would take a frame's length for that of another (uneven timing), and where x265
    gives random times of decoding (clips of two frames).
    """
    uneven = len({end - start for start, end in pairwise(ticks)}) > 1
    if encoding.encoder == "ffv1" and side < _SLICED_PX:
        return {**encoding.options, "slices": "1"}
    if encoding.encoder == "libx264" and uneven:
        return {**encoding.options, "bf": "0"}
    if encoding.encoder == "libx265" and (uneven or len(ticks) <= 3):
        return {**encoding.options, "x265-params": encoding.options["x265-params"] + ":bframes=0"}
    return dict(encoding.options)


def _colour(clip: Clip, encoding: Encoding) -> Colour:
    """The origin's way to code colour, as far as it can be converted to and the codec can say it."""
    colour = clip.origin.colour if clip.origin else BT709
    matrix = colour.matrix if colour.matrix in CONVERTIBLE else BT709.matrix
    return replace(colour, matrix=matrix, full_range=colour.full_range and encoding.any_range)


def _range(colour: Colour) -> ColorRange:
    return ColorRange.JPEG if colour.full_range else ColorRange.MPEG


def _coded_frame(pixels: Image, encoding: Encoding, colour: Colour) -> VideoFrame:
    """A frame in the pixel format of the encoder, with even sides where it needs them."""
    rgb = np.ascontiguousarray(pixels)
    if encoding.is_rgb:
        return VideoFrame.from_ndarray(rgb, format="rgb24").reformat(format=encoding.pixels)
    even = np.pad(rgb, ((0, rgb.shape[0] % 2), (0, rgb.shape[1] % 2), (0, 0)), mode="edge")
    coded = VideoFrame.from_ndarray(even, format="rgb24").reformat(
        format=encoding.pixels,
        dst_colorspace=CONVERTIBLE[colour.matrix],
        dst_color_range=_range(colour),
        interpolation=BICUBIC_EXACT,
    )
    coded.colorspace, coded.color_range = colour.matrix, _range(colour)
    coded.color_primaries, coded.color_trc = colour.primaries, colour.transfer
    return coded
