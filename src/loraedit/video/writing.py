"""RGB to videos, folders of PNGs and images."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import av
import numpy as np
from av.codec.context import Flags
from av.video.frame import VideoFrame
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc
from av.video.stream import VideoStream
from PIL import Image as PilImage

from loraedit.errors import InputError
from loraedit.types import Clip, Image
from loraedit.video.reading import BICUBIC_EXACT, IMAGE_SUFFIXES

__all__ = ["check_writable", "write_clip", "write_image"]

_UNWRITABLE_SUFFIXES = IMAGE_SUFFIXES | {".3gp", ".apng", ".avi", ".avif", ".exr", ".flv", ".gif", ".heic", ".m2ts"}
_UNWRITABLE_SUFFIXES |= {".m4v", ".mpeg", ".mpg", ".mts", ".mxf", ".ogv", ".ts", ".webm", ".wmv", ".y4m"}
_OUTPUTS = "Write to a name ending in .mp4, .mov or .mkv (lossless), or to a name without suffix for a folder of PNGs."
_SLICED_PX = 8  # FFV1 finds no way to slice frames that are narrower than a few pixels
_THREADS = 4  # fixed: x264's bytes depend on the number of threads, and machines differ


@dataclass(frozen=True)
class _Format:
    """How frames are encoded for one suffix."""

    container: str
    codec: str
    pixels: str
    codec_options: dict[str, str] = field(default_factory=dict)
    container_options: dict[str, str] = field(default_factory=dict)


# mbtree is off because its assembly reads beyond small frames: the same clip then gives different bytes.
_X264 = {"crf": "16", "preset": "medium", "x264-params": "mbtree=0"}
_FAST_START = {"fflags": "+bitexact", "movflags": "+faststart"}
_FORMATS = {
    ".mp4": _Format("mp4", "libx264", "yuv420p", _X264, _FAST_START),
    ".mov": _Format("mov", "libx264", "yuv420p", _X264, _FAST_START),
    ".mkv": _Format("matroska", "ffv1", "bgr0", {"level": "3"}, {"fflags": "+bitexact"}),
}


def write_clip(path: Path, clip: Clip) -> None:
    """Write a clip; the suffix of the name chooses how. Missing parent folders are made.

    - ``.mp4``, ``.mov``: H.264, yuv420p, tagged and converted as BT.709, for watching. H.264 in yuv420p has even
      sides only: an odd width or height grows by one column or row, a copy of the last one, so that no pixel of the
      clip is lost and every player can show it.
    - ``.mkv``: FFV1 in RGB, lossless, any size.
    - no suffix, or one that is not of a video or image: a folder of PNGs named 00000.png and so on, lossless. The
      frame rate is not kept. An existing folder is replaced if it holds nothing but such PNGs.

    The same frames give the same bytes on the same machine.

    Raises:
        InputError: the name or the place cannot be written to, or the clip has no frames.
    """
    path = _real(path)
    check_writable(path)
    if len(clip) == 0 or clip.fps <= 0:
        raise InputError(f"A clip of {len(clip)} frames at {clip.fps} fps cannot be written. Both must be above zero.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_whole(path, clip)
    except (OSError, av.FFmpegError) as error:
        raise _unwritable(path, error) from error


def write_image(path: Path, image: Image) -> None:
    """Write an image as PNG, lossless, whatever the suffix of the name. Missing parent folders are made.

    Args:
        path: where to.
        image: ``[H, W, 3]`` uint8 RGB.

    Raises:
        InputError: the place cannot be written to.
    """
    path = _real(path)
    partial = _partial_sibling(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _save_png(partial, image)
        partial.replace(path)
    except OSError as error:
        raise _unwritable(path, error) from error
    finally:
        _remove(partial)


def check_writable(path: Path) -> None:
    """Find out, before hours of work, whether ``write_clip`` could write there. Leaves nothing behind.

    Raises:
        InputError: the suffix is of a kind that loraedit does not write, a folder is in the way, a parent is no
            folder, or files cannot be made there.
    """
    path = _real(path)
    try:
        _check_kind(path)
        parent = next(parent for parent in path.parents if os.path.lexists(parent))
        if not parent.is_dir():
            raise InputError(f"{path} cannot be written: {parent} is not a folder. Choose another place.")
        probe = _partial_sibling(parent / path.name)  # the name that writing will use; os.access would lie to root
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise _unwritable(path, error) from error


def _check_kind(path: Path) -> None:
    """Refuse a name whose suffix, or whose present content, rules out a clip of ours."""
    suffix = path.suffix.lower()
    if suffix in _UNWRITABLE_SUFFIXES:
        raise InputError(f"Clips cannot be written as {suffix} ({path.name}). {_OUTPUTS}")
    if not path.exists():
        return
    if suffix in _FORMATS and not path.is_file():
        raise InputError(f"{path} exists and is not a file, so no video can be written there. Choose another name.")
    if suffix not in _FORMATS:
        _check_replaceable(path)


def _check_replaceable(path: Path) -> None:
    """Refuse to replace what is not a folder of frames written by loraedit."""
    if not path.is_dir():
        raise InputError(f"{path} exists and is not a folder. {_OUTPUTS}")
    foreign = sorted(entry.name for entry in path.iterdir() if not re.fullmatch(r"[0-9]{5,}\.png", entry.name))
    if foreign:
        raise InputError(
            f"The folder {path} holds other things than frames, such as {foreign[0]}, and would be replaced. "
            "Choose a new folder, or empty this one."
        )


def _write_whole(path: Path, clip: Clip) -> None:
    """Write under a passing name beside the target, then move into place."""
    partial = _partial_sibling(path)
    kind = _FORMATS.get(path.suffix.lower())
    try:
        if kind is not None:
            _encode(partial, clip, kind)
            partial.replace(path)
        else:
            partial.mkdir()
            for index, frame in enumerate(clip.frames):
                _save_png(partial / f"{index:05d}.png", frame)
            _replace_folder(partial, path)
    finally:
        _remove(partial)


def _replace_folder(new: Path, path: Path) -> None:
    old = path.with_name(f".{path.name}.old")
    _remove(old)
    if not path.exists():
        new.rename(path)
        return
    path.rename(old)
    try:
        new.rename(path)
    except OSError:
        old.rename(path)
        raise
    shutil.rmtree(old)


def _save_png(path: Path, image: Image) -> None:
    assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[-1] == 3
    PilImage.fromarray(image).save(path, format="PNG")


def _encode(path: Path, clip: Clip, kind: _Format) -> None:
    """Encode a whole clip into one file."""
    fps = clip.fps.limit_denominator(100_000)
    with av.open(str(path), "w", format=kind.container, options=kind.container_options) as container:
        stream = container.add_stream(kind.codec, rate=fps, options=kind.codec_options)
        assert isinstance(stream, VideoStream)
        for index, frame in enumerate(clip.frames):
            coded = _coded_frame(frame, kind)
            if index == 0:
                _describe(stream, coded)
            coded.pts, coded.time_base = index, 1 / fps
            container.mux(stream.encode(coded))
        container.mux(stream.encode())


def _describe(stream: VideoStream, first: VideoFrame) -> None:
    """Tell the encoder what is coming; it opens with the first frame."""
    stream.height, stream.width, stream.pix_fmt = first.height, first.width, first.format.name
    context = stream.codec_context
    context.thread_count = _THREADS
    context.flags |= Flags.bitexact
    if first.format.is_rgb and min(first.height, first.width) < _SLICED_PX:
        context.options = {**context.options, "slices": "1"}
    if not first.format.is_rgb:
        context.colorspace, context.color_range = Colorspace.ITU709, ColorRange.MPEG
        context.color_primaries, context.color_trc = ColorPrimaries.BT709, ColorTrc.BT709


def _coded_frame(pixels: Image, kind: _Format) -> VideoFrame:
    """A frame in the pixel format of the encoder, with even sides where it needs them."""
    rgb = np.ascontiguousarray(pixels)
    if kind.pixels != "yuv420p":
        return VideoFrame.from_ndarray(rgb, format="rgb24").reformat(format=kind.pixels)
    even = np.pad(rgb, ((0, rgb.shape[0] % 2), (0, rgb.shape[1] % 2), (0, 0)), mode="edge")
    return VideoFrame.from_ndarray(even, format="rgb24").reformat(
        format=kind.pixels,
        dst_colorspace=Colorspace.ITU709,
        dst_color_range=ColorRange.MPEG,
        interpolation=BICUBIC_EXACT,
    )


def _real(path: Path) -> Path:
    """The absolute path behind any links, so that writing goes through a link and does not replace it."""
    return Path(os.path.realpath(path))


def _partial_sibling(path: Path) -> Path:
    """A hidden name beside the target, always the same, so that what a killed run left is replaced by the next."""
    partial = path.with_name(f".{path.name}.partial")
    _remove(partial)
    return partial


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _unwritable(path: Path, error: Exception) -> InputError:
    reason = getattr(error, "strerror", None) or str(error)
    return InputError(f"{path} cannot be written: {reason}. Choose another place for the output.")
