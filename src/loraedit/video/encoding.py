"""Encodes RGB frames to a video file, with the timing, colour, pixel aspect and extras of the file they come from."""

from __future__ import annotations

import heapq
import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import chain, count, islice, pairwise
from pathlib import Path

import av
import numpy as np
from av.codec.context import Flags
from av.container import OutputContainer
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, VideoReformatter
from av.video.stream import VideoStream

from loraedit.errors import ShapeError
from loraedit.types import Colour, Origin, Stored
from loraedit.video.copying import Extras, Timed, open_extras
from loraedit.video.decoding import METADATA_ERRORS
from loraedit.video.facts import BT709, CONVERTIBLE, RGB, UNSAID, turn_of
from loraedit.video.formats import Encoding, Kind
from loraedit.video.marking import Marker
from loraedit.video.pixels import BICUBIC_EXACT, Layout, conform, narrow, yuv_frame

__all__ = ["write_video"]

_SLICED_PX = 8  # FFV1 cannot slice frames that are narrower than a few pixels
_THREADS = 4  # fixed, because x264's bytes depend on the number of threads
_SHORTEST_TICK = Fraction(1, 1_000_000)
_FEW = 2  # frames; x265 gives such short clips random decoding times


@dataclass(frozen=True)
class _Plan:
    """Holds everything that is decided before the first frame is encoded.

    Attributes:
        first: the first frame, as it will be stored.
        few: True if there are at most ``_FEW`` frames.
        fps: frames per second.
        origin: the file that the frames come from.
        kind: container and codec.
        pixels: the pixel format that is encoded.
        layout: depth and opacity of that format.
        ticks: when each frame begins, and the last one ends, in units of ``time_base``; None is one unit per frame.
        time_base: seconds.
    """

    first: Stored
    few: bool
    fps: Fraction
    origin: Origin | None
    kind: Kind
    pixels: str
    layout: Layout
    ticks: list[int] | None
    time_base: Fraction

    @property
    def encoding(self) -> Encoding:
        return self.kind.encoding

    @property
    def is_rgb(self) -> bool:
        """True if frames are encoded as RGB, without loss."""
        return not self.pixels.startswith("yuv")

    @property
    def colour(self) -> Colour:
        """The origin's colour coding, as far as it can be converted to and the codec can signal it.

        Untagged colour is coded and tagged as BT.709.
        """
        colour = self.origin.colour if self.origin else BT709
        if self.is_rgb:
            return replace(colour, matrix=RGB)
        if colour.matrix == RGB:
            light = [1 if tag == UNSAID else tag for tag in (colour.primaries, colour.transfer)]
            return Colour(BT709.matrix, False, *light)
        matrix = colour.matrix if colour.matrix in CONVERTIBLE else BT709.matrix
        return replace(colour, matrix=matrix, full_range=colour.full_range and self.encoding.any_range)

    @property
    def range(self) -> ColorRange:
        return ColorRange.JPEG if self.colour.full_range else ColorRange.MPEG


def write_video(
    path: Path, frames: Iterable[Stored], fps: Fraction, origin: Origin | None, layout: Layout, kind: Kind
) -> list[str]:
    """Writes a video file. A stream that cannot be copied from the origin never prevents writing the picture.

    Args:
        path: the file to write.
        frames: at least one, upright, all of one size, type and number of channels; taken one by one.
        fps: frames per second.
        origin: the file that they come from, with the same number of frames.
        layout: depth and opacity of the frames.
        kind: container and codec.

    Returns:
        One sentence for each part of the origin that is missing, and for each loss that the codec causes.

    Raises:
        ShapeError: the number of frames differs from the number of times of the origin.
        av.FFmpegError: the file cannot be written.
    """
    turn = turn_of(origin.matrix if origin else None)
    rest = map(turn.undo, frames)
    head = list(islice(rest, _FEW + 1))
    pixels, kept = kind.encoding.format_for(layout)
    plan = _Plan(head[0], len(head) <= _FEW, fps, origin, kind, pixels, kept, *_clock(fps, origin))
    notes = [*_layout_notes(layout, kept, kind), *_aspect_notes(origin, kind)]
    with ExitStack() as stack:
        output, stream, extras = _begin(stack, path, plan, notes)
        copied = extras.packets() if extras else iter(())
        encoded = _coded(stream, plan, chain(head, rest))
        for _, packet in heapq.merge(encoded, copied, key=lambda timed: timed[0]):
            if extras is None or packet.stream is stream:
                output.mux(packet)
            else:
                extras.mux(output, packet)
        if extras is not None:
            extras.close()
            notes += extras.notes
    return notes


def _begin(
    stack: ExitStack, path: Path, plan: _Plan, notes: list[str]
) -> tuple[OutputContainer, VideoStream, Extras | None]:
    """Opens an output file and writes its header, with the extras of the origin if they can be read."""
    if plan.origin is not None:
        try:
            with ExitStack() as attempt:
                extras = attempt.enter_context(open_extras(plan.origin, plan.kind.container))
                output = attempt.enter_context(_opened(path, plan))
                stream = _declare(output, plan)
                extras.declare(output, stream)
                output.start_encoding()
                stack.enter_context(attempt.pop_all())
                return output, stream, extras
        except (av.FFmpegError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            notes.append(f"Sound and titles of {plan.origin.path.name} could not be copied: {reason}.")
    output = stack.enter_context(_opened(path, plan))
    return output, _declare(output, plan), None


def _opened(path: Path, plan: _Plan) -> OutputContainer:
    container = plan.kind.container
    return av.open(str(path), "w", format=container.muxer, options=container.options, metadata_errors=METADATA_ERRORS)


def _layout_notes(given: Layout, kept: Layout, kind: Kind) -> list[str]:
    lost = []
    if given.depth > kept.depth:
        lost.append(f"only {kept.depth} of {given.depth} bits per channel")
    if given.alpha > kept.alpha:
        lost.append("no opacity")
    advice = "To keep everything, write to a .mkv without --codec, or to a folder of PNGs."
    return [f"{kind.codec} stores {' and '.join(lost)}. {advice}"] if lost else []


def _aspect_notes(origin: Origin | None, kind: Kind) -> list[str]:
    """Returns a note if the pixel aspect or the fields of the origin cannot be stored where programs look for them.

    PyAV cannot set the field of .mkv; H.264 and H.265 signal both within the picture, where every program looks.
    """
    aspect = origin.pixel_aspect if origin else 1
    problem = "few programs read from FFV1 in .mkv" if kind.codec == "ffv1" else f"{kind.codec} in .mkv cannot store"
    if aspect == 1 or kind.container.muxer != "matroska" or kind.encoding.encoder in ("libx264", "libx265"):
        return []
    return [
        f"The source has a pixel aspect of {aspect.numerator}:{aspect.denominator}, which {problem}. "
        "To keep it without loss, write to a .mov with --codec png."
    ]


# ---- timing ----------------------------------------------------------------------------------------------------------


def _clock(fps: Fraction, origin: Origin | None) -> tuple[list[int] | None, Fraction]:
    """Returns when each frame begins, and the last one ends, in units of a time base, from the start of the origin.

    Timestamps that are even except for the rounding of their time base become exactly even: None, one unit per frame.
    """
    frame = 1 / fps.limit_denominator(100_000)
    if origin is None:
        return None, frame
    unit = origin.time_base
    times = [pts * unit - origin.start for pts in origin.pts]
    times.append(times[-1] + origin.last * unit)
    rounding = unit if 8 * unit <= frame else Fraction(0)
    if all(time == index * frame or abs(time - index * frame) < rounding for index, time in enumerate(times)):
        return None, frame
    tick = max(unit, _SHORTEST_TICK)
    return [round(time / tick) for time in times], tick


def _coded(stream: VideoStream, plan: _Plan, frames: Iterable[Stored]) -> Iterator[Timed]:
    """Yields the picture's packets with the time at which each is decoded."""
    durations = {start: end - start for start, end in pairwise(plan.ticks or ())}
    starts = iter(plan.ticks[:-1]) if plan.ticks else count()
    reformatter, marker, done = VideoReformatter(), Marker(plan.origin), 0
    for done, pixels in enumerate(frames, 1):
        _check_count(plan.origin, done, ended=False)
        coded = _coded_frame(pixels, plan, reformatter)
        coded.pts, coded.time_base = next(starts), stream.codec_context.time_base
        yield from _timed(stream, marker.mark(coded), durations)
    _check_count(plan.origin, done, ended=True)
    yield from _timed(stream, None, durations)


def _check_count(origin: Origin | None, done: int, ended: bool) -> None:
    expected = len(origin.pts) if origin else done
    if done > expected or (ended and done < expected):
        raise ShapeError(f"Expected {expected} frames, as many as the source has, but got {done} or more.")


def _timed(stream: VideoStream, frame: VideoFrame | None, durations: dict[int, int]) -> Iterator[Timed]:
    """Yields packets from the encoder; without planned durations, each frame lasts one unit."""
    for packet in stream.encode(frame):
        assert packet.pts is not None and packet.dts is not None and packet.time_base is not None
        packet.duration = durations.get(packet.pts, packet.duration) if durations else 1
        yield float(packet.dts * packet.time_base), packet


# ---- the encoder -----------------------------------------------------------------------------------------------------


def _declare(output: OutputContainer, plan: _Plan) -> VideoStream:
    """Adds the picture stream to an output file and sets up its encoder."""
    os.environ.setdefault("SVT_LOG", "1")  # otherwise SVT-AV1 writes its settings to standard error
    encoding, colour = plan.encoding, plan.colour
    first = _coded_frame(plan.first, plan, VideoReformatter())
    options = _options(plan, min(first.height, first.width))
    stream = output.add_stream(encoding.encoder, rate=plan.fps.limit_denominator(100_000), options=options)
    assert isinstance(stream, VideoStream)
    stream.height, stream.width, stream.pix_fmt = first.height, first.width, plan.pixels
    context = stream.codec_context
    context.time_base, context.thread_count = plan.time_base, _THREADS
    context.flags |= Flags.bitexact
    if plan.origin is not None:
        context.sample_aspect_ratio = plan.origin.pixel_aspect
        if plan.origin.fields > 1:
            context.field_order = plan.origin.fields
            context.flags |= Flags.interlaced_dct
        stream.set_display_matrix(_display_matrix(plan.origin, plan.kind))
    if encoding.tag and plan.kind.container.muxer != "matroska":
        context.codec_tag = encoding.tag
    if not plan.is_rgb:
        context.color_range = plan.range
    if not plan.is_rgb or plan.origin is not None:
        context.colorspace, context.color_primaries, context.color_trc = (
            colour.matrix,
            colour.primaries,
            colour.transfer,
        )
    return stream


def _display_matrix(origin: Origin, kind: Kind) -> tuple[int, ...] | None:
    """Returns the origin's display matrix, or for Matroska, which stores angles and mirrors only, the nearest turn."""
    matrix = origin.matrix
    if matrix is None or kind.container.muxer != "matroska":
        return matrix
    a, b, _, c, d = matrix[:5]
    return matrix if (a, b) in ((d, -c), (-d, c)) else turn_of(matrix).matrix


def _options(plan: _Plan, side: int) -> dict[str, str]:
    """Returns the encoder's options for a clip's length, size, timing and opacity.

    Frames are not reordered where .mp4 would exchange the durations of frames (uneven timing), and where x265 gives
    random decoding times (clips of two frames).
    """
    encoding, options = plan.encoding, dict(plan.encoding.options)
    uneven = plan.ticks is not None and len({end - start for start, end in pairwise(plan.ticks)}) > 1
    if encoding.encoder == "ffv1" and side < _SLICED_PX:
        options["slices"] = "1"
    if encoding.encoder == "libx264" and uneven:
        options["bf"] = "0"
    if encoding.encoder == "libx265" and (uneven or plan.few):
        options["x265-params"] += ":bframes=0"
    if encoding.encoder == "prores_ks":
        options["profile"] = "4444" if plan.layout.alpha else "hq"
    return options


def _coded_frame(pixels: Stored, plan: _Plan, reformatter: VideoReformatter) -> VideoFrame:
    """Returns a frame in the pixel format of the encoder, with even sides if the format requires them."""
    if plan.is_rgb:
        return _lossless_frame(pixels, plan, reformatter)
    deep, colour = plan.layout.depth > 8, plan.colour
    rgb = conform(pixels, Layout(16, plan.layout.alpha) if deep else plan.layout)
    even = np.pad(rgb, ((0, rgb.shape[0] % 2), (0, rgb.shape[1] % 2), (0, 0)), mode="edge")
    if deep:
        yuv = yuv_frame(even, colour, plan.layout)
        coded = reformatter.reformat(yuv, format=plan.pixels, interpolation=BICUBIC_EXACT)
    else:
        coded = reformatter.reformat(
            _frame(even),
            format=plan.pixels,
            dst_colorspace=CONVERTIBLE[colour.matrix],
            dst_color_range=plan.range,
            interpolation=BICUBIC_EXACT,
        )
    coded.colorspace, coded.color_range = colour.matrix, plan.range
    coded.color_primaries, coded.color_trc = colour.primaries, colour.transfer
    return coded


def _lossless_frame(pixels: Stored, plan: _Plan, reformatter: VideoReformatter) -> VideoFrame:
    """Returns a frame of RGB; only the byte order changes."""
    pixels = conform(pixels, plan.layout)
    if plan.pixels.startswith("gbr") and pixels.dtype == np.uint16:
        return VideoFrame.from_ndarray(narrow(pixels, plan.layout.depth), format=plan.pixels)
    return reformatter.reformat(_frame(pixels), format=plan.pixels)


def _frame(pixels: Stored) -> VideoFrame:
    """Wraps RGB or RGBA pixels as a frame of FFmpeg."""
    alpha = pixels.shape[-1] == 4
    if pixels.dtype == np.uint16:
        return VideoFrame.from_ndarray(pixels, format="rgba64le" if alpha else "rgb48le")
    return VideoFrame.from_ndarray(pixels, format="rgba" if alpha else "rgb24")
