"""Defines which codec goes into which kind of file, and how each codec encodes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import av

from loraedit.errors import InputError
from loraedit.types import Codec, Size
from loraedit.video.pixels import Layout

__all__ = ["OUTPUTS", "Container", "Encoding", "Kind", "check_encodable", "choose_kind", "is_container"]

OUTPUTS = "Write to a name ending in .mp4, .mov or .mkv (lossless), or to a name without suffix for a folder of PNGs."


@dataclass(frozen=True)
class Encoding:
    """Describes how one codec encodes.

    Attributes:
        encoder: FFmpeg's name.
        formats: the pixel formats that it encodes, each with its layout; the first that holds all of a clip is used.
        options: of the encoder.
        tag: the four characters that name the codec in .mp4 and .mov, where the default is not widely understood.
        smallest_px: the smallest height and width that it accepts.
        any_range: True if it can signal full-range YUV.
    """

    encoder: str
    formats: tuple[tuple[str, Layout], ...]
    options: dict[str, str] = field(default_factory=dict)
    tag: str | None = None
    smallest_px: int = 1
    any_range: bool = True

    def format_for(self, layout: Layout) -> tuple[str, Layout]:
        """Returns the pixel format for a layout, and what the format holds; without a full match, the nearest one."""
        fitting = [each for each in self.formats if each[1].alpha == layout.alpha] or self.formats
        return next((each for each in fitting if each[1].depth >= layout.depth), fitting[-1])


@dataclass(frozen=True)
class Container:
    """Describes a kind of file: suffix, FFmpeg's name, the codecs that it takes (the default first), and options."""

    suffix: str
    muxer: str
    codecs: tuple[Codec, ...]
    options: dict[str, str]


class Kind(NamedTuple):
    """Names container and codec of a clip that is written as a file."""

    codec: Codec
    container: Container
    encoding: Encoding


# mbtree and cutree are off because they read beyond small frames: x264 then gives different bytes, and x265 crashes.
_YUV420 = ("yuv420p", Layout(8, False))
_YUV420_10 = ("yuv420p10le", Layout(10, False))
_ENCODINGS: dict[Codec, Encoding] = {
    "h264": Encoding("libx264", (_YUV420,), {"crf": "16", "preset": "medium", "x264-params": "mbtree=0"}),
    "h265": Encoding(
        "libx265",
        (_YUV420, _YUV420_10),
        {"crf": "17", "preset": "medium", "x265-params": "log-level=none:frame-threads=2:cutree=0"},
        tag="hvc1",
        smallest_px=16,
    ),
    "av1": Encoding("libsvtav1", (_YUV420, _YUV420_10), {"crf": "18", "preset": "6"}, smallest_px=64),
    "prores": Encoding(
        "prores_ks",
        (("yuv422p10le", Layout(10, False)), ("yuva444p10le", Layout(10, True))),
        {"vendor": "apl0"},
        any_range=False,
    ),
    "ffv1": Encoding(
        "ffv1",
        (
            ("bgr0", Layout(8, False)), ("bgra", Layout(8, True)),
            ("gbrp10le", Layout(10, False)), ("gbrap10le", Layout(10, True)),
            ("gbrp12le", Layout(12, False)), ("gbrap12le", Layout(12, True)),
            ("gbrp16le", Layout(16, False)), ("gbrap16le", Layout(16, True)),
        ),
        {"level": "3"},
    ),
    "png": Encoding(
        "png",
        (
            ("rgb24", Layout(8, False)), ("rgba", Layout(8, True)),
            ("rgb48be", Layout(16, False)), ("rgba64be", Layout(16, True)),
        ),
    ),
}  # fmt: skip
_FAST_START = {"fflags": "+bitexact", "movflags": "+faststart"}
_AT_ITS_TIME = {"fflags": "+bitexact", "avoid_negative_ts": "disabled"}  # sound may begin before the picture
_CONTAINERS = {
    each.suffix: each
    for each in (
        Container(".mp4", "mp4", ("h264", "h265", "av1"), _FAST_START),
        Container(".mov", "mov", ("h264", "h265", "prores", "png"), _FAST_START),
        Container(".mkv", "matroska", ("ffv1", "h264", "h265", "av1", "prores"), _AT_ITS_TIME),
    )
}


def is_container(path: Path) -> bool:
    """Returns whether a name is that of a video file; otherwise it names a folder of frames."""
    return path.suffix.lower() in _CONTAINERS


def choose_kind(path: Path, codec: Codec | None) -> Kind | None:
    """Chooses container and codec for a name; None is a folder of PNGs.

    Raises:
        InputError: the container does not take the codec, or this build of PyAV has no encoder for it.
    """
    container = _CONTAINERS.get(path.suffix.lower())
    if container is None:
        if codec not in (None, "png"):
            raise InputError(f"A folder of PNGs ({path.name}) cannot hold {codec}. {_where(codec)}")
        return None
    if codec is not None and codec not in container.codecs:
        takes = _either(container.codecs)
        raise InputError(f"A {path.suffix.lower()} file takes {takes}, not {codec} ({path.name}). {_where(codec)}")
    chosen = codec or container.codecs[0]
    _check_present(chosen)
    return Kind(chosen, container, _ENCODINGS[chosen])


def check_encodable(path: Path, codec: Codec | None, size: Size) -> None:
    """Checks that frames of a size can be written to a name.

    Raises:
        InputError: the frames are too small for the codec, or as :func:`choose_kind`.
    """
    kind = choose_kind(path, codec)
    if kind and min(size.height, size.width) < kind.encoding.smallest_px:
        least = Size(kind.encoding.smallest_px, kind.encoding.smallest_px)
        raise InputError(f"The clip is {size}, but {codec} needs at least {least}. Choose another --codec.")


def _check_present(codec: Codec) -> None:
    encoder = _ENCODINGS[codec].encoder
    try:
        av.codec.Codec(encoder, "w")
    except ValueError as error:  # includes PyAV's UnknownCodecError
        raise InputError(
            f"This build of PyAV cannot write {codec}: it has no {encoder}. Choose another --codec, "
            "or install PyAV's own wheel (pip install --force-reinstall av)."
        ) from error


def _where(codec: Codec) -> str:
    """Returns advice on the containers that take a codec."""
    suffixes = [suffix for suffix, container in _CONTAINERS.items() if codec in container.codecs]
    folder = ["no suffix (a folder)"] if codec == "png" else []
    return f"Leave --codec out, or give --out a name with {_either([*suffixes, *folder])}."


def _either(words: list[str] | tuple[str, ...]) -> str:
    return " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
