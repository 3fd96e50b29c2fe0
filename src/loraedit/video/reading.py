"""Videos, folders of frames and images to RGB."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from PIL import Image as PilImage
from PIL import ImageOps

from loraedit.errors import InputError
from loraedit.types import Clip, Image, Size
from loraedit.video.facts import Shown, average_rate, colour_of, only, origin_of, shown, turn_of

__all__ = ["BICUBIC_EXACT", "DEFAULT_FPS", "IMAGE_SUFFIXES", "METADATA_ERRORS", "read_clip", "read_image"]

DEFAULT_FPS = Fraction(24)
"""Frames per second of a folder of frames, which states none."""

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"})
"""Suffixes, in lower case, that count as an image: a frame in a folder, a mask for all frames."""

METADATA_ERRORS = "surrogateescape"
"""How titles that are not UTF-8 are read: to be passed on byte for byte."""

BICUBIC_EXACT = 0x4 | 0x2000 | 0x4000 | 0x40000 | 0x80000  # swscale: full chroma in and out, exact rounding, bitexact
_TEXT_DEMUXERS = frozenset({"adf", "bin", "idf", "tty", "xbin"})  # FFmpeg draws any text file as a terminal


def read_clip(path: Path) -> Clip:
    """Read a video file, or a folder of frames in the natural order of their names (2 before 10).

    Rotation metadata is applied, so that frames come out upright. A folder plays at ``DEFAULT_FPS``. The clip of a
    video has its average rate, and an origin that holds its timestamps, tags and place.

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
    times: list[Shown] = []
    first = origin = None
    try:
        with av.open(str(path.resolve()), metadata_errors=METADATA_ERRORS) as container:
            stream = _picture_stream(container, path)
            for frame in _decoded(container, stream, path):
                first = first or frame
                frames.append(_upright_rgb(frame))
                times.append(shown(frame))
            fps = Fraction(stream.average_rate or stream.guessed_rate or DEFAULT_FPS)
            if first is not None:
                origin = origin_of(path, container, stream, first, times, fps)
                fps = average_rate(fps, origin)
    except av.FFmpegError as error:
        raise _damaged(path, str(error.strerror), len(frames)) from error
    if not frames:
        raise InputError(f"{path} holds no frame that can be decoded. Export the video again.")
    _check_one_size([frame.shape for frame in frames], [f"frame {index + 1} of {path}" for index in range(len(frames))])
    return Clip(np.stack(frames), fps, origin)


def _decoded(container: InputContainer, stream: VideoStream, path: Path) -> Iterator[VideoFrame]:
    count = 0
    for packet in container.demux(stream):
        if packet.is_corrupt:  # so ends an .mp4 that was cut short; FFmpeg counts it as no error
            raise _damaged(path, "data is missing", count + len(stream.decode()))
        for frame in packet.decode():
            count += 1
            yield frame
    size = path.stat().st_size
    if any(entry.pos + entry.size > size for entry in stream.index_entries):
        raise _damaged(path, "its end is missing", count)


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
    only(container, streams[0])
    return streams[0]


def _upright_rgb(frame: VideoFrame) -> Image:
    """``[H, W, 3]`` uint8 RGB, converted as the frame is tagged and turned by its rotation metadata."""
    source = None if frame.format.is_rgb else colour_of(frame).matrix
    rgb = frame.reformat(format="rgb24", src_colorspace=source, interpolation=BICUBIC_EXACT)
    return turn_of(frame).apply(rgb.to_ndarray().astype(np.uint8, copy=False))
