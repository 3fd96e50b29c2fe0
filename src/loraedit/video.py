"""Clips and images on disk: read anything, write three containers or a folder of PNGs.

Frames in memory are RGB, 8 bits, upright. What loraedit writes as FFV1 (.mkv) or PNG reads back bit for bit; H.264
(.mp4, .mov) is for watching. Writing is atomic: a file or folder appears whole, under its final name, or not at all.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import uuid
import warnings
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.codec.context import Flags
from av.container import InputContainer
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc
from av.video.stream import VideoStream
from PIL import Image as PilImage
from PIL import ImageOps

from loraedit.errors import InputError
from loraedit.types import Clip, Image, Size

__all__ = ["DEFAULT_FPS", "IMAGE_SUFFIXES", "check_writable", "read_clip", "read_image", "write_clip", "write_image"]

DEFAULT_FPS = Fraction(24)
"""Frames per second of a folder of frames, which states none."""

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"})
"""Suffixes, in lower case, that count as an image: a frame in a folder, a mask for all frames."""

_UNWRITABLE_SUFFIXES = IMAGE_SUFFIXES | {".3gp", ".apng", ".avi", ".avif", ".exr", ".flv", ".gif", ".heic", ".m2ts"}
_UNWRITABLE_SUFFIXES |= {".m4v", ".mpeg", ".mpg", ".mts", ".mxf", ".ogv", ".ts", ".webm", ".wmv", ".y4m"}
_OUTPUTS = "Write to a name ending in .mp4, .mov or .mkv (lossless), or to a name without suffix for a folder of PNGs."
_TEXT_DEMUXERS = frozenset({"adf", "bin", "idf", "tty", "xbin"})  # FFmpeg draws any text file as a terminal
_COLORSPACE_UNSPECIFIED = 2
_HD_HEIGHT = 720
_BICUBIC_EXACT = 0x4 | 0x2000 | 0x4000 | 0x40000 | 0x80000  # swscale: full chroma in and out, exact rounding, bitexact
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


def read_clip(path: Path) -> Clip:
    """Read a video file, or a folder of frames in the natural order of their names (2 before 10).

    Rotation metadata is applied, so that frames come out upright. A folder plays at ``DEFAULT_FPS``; a video with
    a varying frame rate keeps all its frames, at the average rate.

    Args:
        path: a video file that FFmpeg can decode, or a folder of PNG, JPEG, WebP, BMP or TIFF frames.

    Returns:
        The clip, frames ``[F, H, W, 3]`` uint8 RGB, F at least 1.

    Raises:
        InputError: nothing is there, it isn't a video, it has no frames, or its frames differ in size.
    """
    path = Path(path)
    if path.is_dir():
        return _read_folder(path)
    if not path.is_file():
        raise InputError(f"There is no video file or folder of frames at {path}. Check the path.")
    return _read_video(path)


def read_image(path: Path) -> Image:
    """Read an image as 8-bit RGB, turned upright by its EXIF orientation.

    16-bit grey is scaled to 8 bits; palettes and CMYK are converted; transparent pixels are laid over black.

    Returns:
        ``[H, W, 3]`` uint8 RGB.

    Raises:
        InputError: there is no such file, it isn't an image, or it is too large to be meant.
    """
    path = Path(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", PilImage.DecompressionBombWarning)
            with PilImage.open(path) as image:
                return _rgb_pixels(ImageOps.exif_transpose(image))
    except (PilImage.DecompressionBombError, PilImage.DecompressionBombWarning) as error:
        raise InputError(f"{path} is too large to decode safely: {error} Scale the image down.") from error
    except FileNotFoundError as error:
        raise InputError(f"There is no image at {path}. Check the path.") from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise InputError(f"{path} cannot be read as an image ({error}). Save it again as PNG.") from error


def _rgb_pixels(image: PilImage.Image) -> Image:
    """``[H, W, 3]`` uint8 of an image of any PIL mode."""
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers of unknown range, expected 8 or 16 bits")
    if image.mode.startswith("I"):
        grey = np.rint(np.asarray(image, dtype=np.float64) / 257).clip(0, 255).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=-1)
    if image.has_transparency_data:
        black = PilImage.new("RGBA", image.size, (0, 0, 0, 255))
        image = PilImage.alpha_composite(black, image.convert("RGBA"))
    return np.array(image.convert("RGB"), dtype=np.uint8)


def _natural_order(path: Path) -> tuple[list[str | int], str]:
    parts = re.split(r"(\d+)", path.name.lower())
    return [int(part) if index % 2 else part for index, part in enumerate(parts)], path.name


def _read_folder(path: Path) -> Clip:
    """The clip made of a folder's images; hidden files are passed over."""
    names = [entry for entry in path.iterdir() if entry.suffix.lower() in IMAGE_SUFFIXES and entry.name[0] != "."]
    if not names:
        raise InputError(f"The folder {path} holds no frames. Put PNG, JPEG, WebP, BMP or TIFF images into it.")
    names.sort(key=_natural_order)
    frames = [read_image(name) for name in names]
    _check_one_size([frame.shape for frame in frames], [str(name) for name in names])
    return Clip(np.stack(frames), DEFAULT_FPS)


def _check_one_size(shapes: list[tuple[int, ...]], names: list[str]) -> None:
    for shape, name in zip(shapes, names, strict=True):
        if shape != shapes[0]:
            sizes = Size(*shape[:2]), Size(*shapes[0][:2])
            raise InputError(
                f"{name} is {sizes[0]}, but {names[0]} is {sizes[1]}. Give all frames of a clip the same size."
            )


def _read_video(path: Path) -> Clip:
    frames: list[Image] = []
    try:
        with av.open(str(path.resolve())) as container:
            stream = _picture_stream(container, path)
            for packet in container.demux(stream):
                if packet.is_corrupt:  # so ends an .mp4 that was cut short; FFmpeg counts it as no error
                    raise _damaged(path, "data is missing", len(frames) + len(stream.decode()))
                frames.extend(_upright_rgb(frame) for frame in packet.decode())
            fps = stream.average_rate or stream.guessed_rate or DEFAULT_FPS
    except av.FFmpegError as error:
        raise _damaged(path, str(error.strerror), len(frames)) from error
    if not frames:
        raise InputError(f"{path} holds no frame that can be decoded. Export the video again.")
    _check_one_size([frame.shape for frame in frames], [f"frame {index + 1} of {path}" for index in range(len(frames))])
    return Clip(np.stack(frames), Fraction(fps))


def _damaged(path: Path, reason: str, readable: int) -> InputError:
    state = f"and only {readable} of its frames can be decoded" if readable else "or no video at all"
    advice = "Convert it to an H.264 .mp4, or give a folder of frames."
    return InputError(f"{path} cannot be read as a video ({reason}): it is damaged, {state}. {advice}")


def _picture_stream(container: InputContainer, path: Path) -> VideoStream:
    """The first moving-picture stream, cover art passed over."""
    kind = container.format.name
    if kind.endswith("_pipe") or kind.startswith("image2"):
        raise InputError(f"{path} is a single image, but a clip is needed. Give a video, or a folder of frames.")
    if kind in _TEXT_DEMUXERS:
        raise InputError(f"{path} is a text file, not a video. Give a video, or a folder of frames.")
    streams = [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]
    if not streams:
        content = "has sound but no picture" if container.streams.audio else "has no picture"
        raise InputError(f"{path} {content}. Give a file with a video track.")
    streams[0].thread_type = "AUTO"
    return streams[0]


def _upright_rgb(frame: VideoFrame) -> Image:
    """``[H, W, 3]`` uint8 RGB, turned by the frame's rotation metadata.

    Untagged YUV is taken as BT.601 below 720 lines and as BT.709 from there on, as players do.
    """
    matrix: int = frame.colorspace
    if matrix == _COLORSPACE_UNSPECIFIED:
        matrix = Colorspace.ITU709 if frame.height >= _HD_HEIGHT else Colorspace.ITU601
    source = None if frame.format.is_rgb else matrix
    rgb = frame.reformat(format="rgb24", src_colorspace=source, interpolation=_BICUBIC_EXACT)
    return np.ascontiguousarray(np.rot90(rgb.to_ndarray().astype(np.uint8, copy=False), round(frame.rotation / 90)))


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
        with tempfile.NamedTemporaryFile(dir=parent, prefix=".loraedit-"):  # os.access would lie to root
            pass
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
    if not path.exists():
        new.rename(path)
        return
    old = _partial_sibling(path)
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
        interpolation=_BICUBIC_EXACT,
    )


def _real(path: Path) -> Path:
    """The absolute path behind any links, so that writing goes through a link and does not replace it."""
    return Path(os.path.realpath(path))


def _partial_sibling(path: Path) -> Path:
    return path.with_name(f".loraedit-{uuid.uuid4().hex}")


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _unwritable(path: Path, error: Exception) -> InputError:
    reason = getattr(error, "strerror", None) or str(error)
    return InputError(f"{path} cannot be written: {reason}. Choose another place for the output.")
