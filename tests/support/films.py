"""Makes source files as other programs do, each with one `ffmpeg` command, and reads what a file holds."""

from __future__ import annotations

import struct
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import av
import numpy as np
from clips import gradient, smooth_clip
from imageio_ffmpeg import get_ffmpeg_exe

from loraedit.types import Stored

MS = Fraction(1, 1000)
QUARTER_TURN_CLOCKWISE = (0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30)
UNEVEN = (0, 40, 100, 110, 250)  # milliseconds; the last frame lasts 70
OPTIONS = {
    "libx264": ("-crf", "4", "-bf", "0"),
    "libx265": ("-x265-params", "log-level=none:bframes=0:cutree=0"),  # cutree writes beyond small frames
}
TICKS = ("-video_track_timescale", 1000)
SOUND = ("-ac", 2, "-strict", -2, "-metadata:s:a", "language=fra")
WORDS = "1\n00:00:00,050 --> 00:00:00,150\nHello\n"
ABOUT = ";FFMETADATA1\ntitle=Räder\n[CHAPTER]\nTIMEBASE=1/1000\nSTART=0\nEND=100\ntitle=one\n"


@dataclass(frozen=True)
class Making:
    """Describes how a source file is made."""

    encoder: str = "libx264"
    pixels: str = "yuv420p"
    sound: str | None = "aac"
    sound_at: Fraction = Fraction(0)
    subtitles: str | None = None
    times: tuple[int, ...] = UNEVEN
    last: int = 70
    aspect: Fraction = Fraction(1)
    tags: tuple[int, int, int, int] = (1, 1, 1, 1)  # matrix, range, primaries, transfer
    filters: str = "null"
    turned: tuple[str | int, ...] = ()  # ffmpeg's options for the display matrix
    options: tuple[str, ...] = ()


def ffmpeg(*arguments: Any, given: bytes = b"") -> bytes:
    """Runs ffmpeg; returns its standard output."""
    command = [get_ffmpeg_exe(), "-v", "error", "-y", *map(str, arguments)]
    return subprocess.run(command, input=given, stdout=subprocess.PIPE, check=True).stdout


def raw(frames: Stored) -> list[str]:
    """Returns the input options for frames given as bytes: RGB or RGBA of 8 or 16 bits, or planes of YUV."""
    if frames.shape[1] == 3:
        kind, (height, width) = "yuv444p", frames.shape[2:]
    else:
        kinds = {(1, 3): "rgb24", (1, 4): "rgba", (2, 3): "rgb48le", (2, 4): "rgba64le"}
        kind, (height, width) = kinds[frames.itemsize, frames.shape[3]], frames.shape[1:3]
    return ["-f", "rawvideo", "-pix_fmt", kind, "-s", f"{width}x{height}", "-r", "25", "-i", "-"]


def make_film(path: Path, making: Making | None = None, frames: Stored | Path | None = None) -> None:
    """Writes a film of the given frames, of the first frames of another film, or of soft gradients that drift."""
    making = making or Making()
    frames = smooth_clip(len(making.times), 64, 72).frames if frames is None else frames
    film, given = (["-i", frames], b"") if isinstance(frames, Path) else (raw(frames), frames.tobytes())
    with TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "about.txt").write_text(ABOUT)
        (folder / "words.srt").write_text(WORDS)
        noise = "anoisesrc=r=48000:d=0.3:seed=0:a=0.3"
        ffmpeg(
            *film, "-i", folder / "about.txt", "-i", folder / "words.srt",
            "-itsoffset", float(making.sound_at), "-f", "lavfi", "-i", noise,
            "-map", "0:v", "-map_metadata", 1, "-map_chapters", 1, *_picture(making),
            *(("-map", "2:s", "-c:s", making.subtitles) if making.subtitles else ()),
            *(("-map", "3:a", "-c:a", making.sound, *SOUND) if making.sound else ()),
            path, given=given,
        )  # fmt: skip
        if making.turned:
            path.rename(folder / path.name)
            ffmpeg(*making.turned, "-i", folder / path.name, "-map", "0:v", "-map", "0:a?", "-c", "copy", *TICKS, path)


def make_drift(path: Path, encoder: str, pixels: str, **making: Any) -> None:
    """Writes five frames of 16-bit gradients, with opacity if the format has it."""
    alpha = any(component.is_alpha for component in av.VideoFormat(pixels).components)
    make_film(path, Making(encoder, pixels, **making), gradient(5, channels=3 + alpha))


def _picture(making: Making) -> list[Any]:
    """Returns the output options of the picture. It is tagged without conversion; timestamps are set on the packets."""
    filters = [f"trim=end_frame={len(making.times)}", making.filters, f"format={making.pixels}"]
    filters.append(f"setsar={making.aspect}")
    if "yuv" in making.pixels:
        names = ("colorspace", "range", "color_primaries", "color_trc")
        filters.append("setparams=" + ":".join(f"{name}={tag}" for name, tag in zip(names, making.tags, strict=True)))
    lasting = [end - start for start, end in pairwise((*making.times, making.times[-1] + making.last))]
    stamps = f"ts='{_by_number(making.times)}':duration='{_by_number(lasting)}'"
    return [
        "-vf", ",".join(filters), "-c:v", making.encoder, *OPTIONS.get(making.encoder, ()), *making.options,
        "-enc_time_base", "1:1000", "-bsf:v", f"setts={stamps}", *TICKS,
    ]  # fmt: skip


def _by_number(values: Sequence[int]) -> str:
    """Returns an ffmpeg expression with a value for each packet."""
    return "+".join(f"eq(N,{number})*{value}" for number, value in enumerate(values))


def packets(path: Path, kind: str) -> list[bytes]:
    with av.open(str(path)) as container:
        streams = [stream for stream in container.streams if stream.type == kind]
        return [bytes(packet) for packet in container.demux(streams) if packet.size] if streams else []


def times(path: Path) -> list[Fraction]:
    with av.open(str(path)) as container:
        return [frame.pts * frame.time_base for frame in container.decode(video=0)]


def length(path: Path) -> Fraction:
    """Returns how long the picture lasts, in seconds."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        if path.suffix != ".mkv":
            return stream.duration * stream.time_base
        hours, minutes, seconds = stream.metadata["DURATION"].split(":")
        return Fraction(hours) * 3600 + Fraction(minutes) * 60 + Fraction(seconds)


def tags(path: Path) -> tuple[int, int, int, int]:
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
        return frame.colorspace, frame.color_range, frame.color_primaries, frame.color_trc


def stored(path: Path) -> tuple[int, int, Fraction, tuple[int, ...] | None]:
    """Returns what a file states of its stored frames: width, height, pixel aspect, display matrix."""
    with av.open(str(path)) as container:
        picture = container.streams.video[0]
        data = next(container.decode(video=0)).side_data.get("DISPLAYMATRIX")
        matrix = None if data is None else tuple(np.frombuffer(data, np.int32).tolist())
        return picture.width, picture.height, picture.sample_aspect_ratio or Fraction(1), matrix


def turn(path: Path, matrix: tuple[int, ...]) -> None:
    """Sets the display matrix in the track header of an mp4."""
    data = bytearray(path.read_bytes())
    start = data.index(b"tkhd") + 4 + 40
    data[start : start + 36] = struct.pack(">9i", *matrix)
    path.write_bytes(data)
