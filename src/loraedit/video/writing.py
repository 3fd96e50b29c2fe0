"""Writes clips and images atomically: complete under their final name, or not at all."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from itertools import chain, islice
from pathlib import Path

import av
import numpy as np

from loraedit.errors import InputError
from loraedit.storage.files import real
from loraedit.types import Clip, Codec, Footage, Origin, Stored
from loraedit.video.encoding import write_video
from loraedit.video.formats import OUTPUTS, choose_kind, is_container
from loraedit.video.images import IMAGE_SUFFIXES, save_png
from loraedit.video.pixels import Layout

__all__ = ["check_writable", "write_clip", "write_footage", "write_image", "write_part"]

_UNWRITABLE_SUFFIXES = IMAGE_SUFFIXES | {".3gp", ".apng", ".avi", ".avif", ".exr", ".flv", ".gif", ".heic", ".m2ts"}
_UNWRITABLE_SUFFIXES |= {".m4v", ".mpeg", ".mpg", ".mts", ".mxf", ".ogv", ".ts", ".webm", ".wmv", ".y4m"}


def write_footage(
    path: Path, frames: Iterable[Stored], like: Footage | Fraction, codec: Codec | None = None
) -> list[str]:
    """Writes frames as they come. The suffix of the name, and the codec if given, choose the format.

    - ``.mp4``, ``.mov``: H.264, or H.265, AV1 (.mp4), ProRes 422 HQ, PNG (.mov). H.264, H.265 and AV1 are yuv420p,
      which requires even sides, and so does ProRes: an odd width or height grows by a copy of the last column or row,
      so that no pixel is lost and every player can show the file.
    - ``.mkv``: FFV1 in RGB, lossless, any size; or H.264, H.265, AV1, ProRes.
    - no suffix, or one that is not of a video or image: a folder of PNGs named 00000.png and so on, lossless. The frame
      rate is not kept. An existing folder is replaced if it holds nothing but such PNGs.

    FFV1, PNG and folders keep every bit (8, 10, 12 or 16) and opacity. H.265 and AV1 store 10 bits if the frames have
    more than 8; ProRes always stores 10, and becomes ProRes 4444 with opacity. Notes report any other loss.

    If ``like`` has an origin, a video gets the origin's timestamps (counted from the start of its file), pixel aspect
    and colour tags, and copies of its sound, subtitles, chapters and titles. If the origin is stored turned or
    mirrored, so is the file, with the same display matrix; a folder is upright. Without an origin, a video is BT.709 at
    an even rate.

    The same frames give the same bytes on the same machine. Missing parent folders are created.

    Args:
        path: the file or folder to write.
        frames: ``[H, W, 3]`` RGB or ``[H, W, 4]`` RGBA, upright, all alike, uint8, or uint16 from 0 to 65535; at least
            one, and as many as ``like.origin`` has. They are taken one by one, and none is kept.
        like: footage with the timing, the origin and (for uint16) the depth of the frames; or only frames per second.
        codec: the codec, if not the default of the suffix.

    Returns:
        One sentence for each part of the frames or the origin that the file cannot hold.

    Raises:
        InputError: the path cannot be written, the container does not take the codec, or there are no frames.
        ShapeError: the number of frames differs from the origin's.
    """
    if isinstance(like, Fraction):
        return _write(path, frames, like, None, 16, codec)
    return _write(path, frames, like.fps, like.origin, like.depth, codec)


def _write(
    path: Path, frames: Iterable[Stored], fps: Fraction, origin: Origin | None, depth: int, codec: Codec | None
) -> list[str]:
    path = real(path)
    check_writable(path, codec)
    rest = iter(frames)
    head = list(islice(rest, 1))
    if not head or fps <= 0:
        raise InputError(f"A clip of {len(head)} frames at {fps} fps cannot be written. Both must be above zero.")
    layout = Layout(8 if head[0].dtype == np.uint8 else depth if depth > 8 else 16, head[0].shape[-1] == 4)
    kind = choose_kind(path, codec)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _whole(path) as partial:
            if kind is not None:
                return write_video(partial, chain(head, rest), fps, origin, layout, kind)
            partial.mkdir()
            for index, pixels in enumerate(chain(head, rest)):
                save_png(partial / f"{index:05d}.png", pixels)
            return []
    except (OSError, av.FFmpegError) as error:
        raise _unwritable(path, error) from error


def write_clip(path: Path, clip: Clip, codec: Codec | None = None) -> list[str]:
    """Writes a clip in memory, as :func:`write_footage` does."""
    return write_footage(path, clip.frames, clip, codec)


def write_part(path: Path, footage: Footage, start: int, stop: int) -> list[str]:
    """Writes the frames from ``start`` up to ``stop`` as :func:`write_footage` does.

    Sound and subtitles that begin in that time are copied, and keep their offset to the frames.
    """
    origin = footage.origin.part(start, stop) if footage.origin else None
    return _write(path, footage.exact(start, stop), footage.fps, origin, footage.depth, None)


def write_image(path: Path, image: Stored) -> None:
    """Writes an image as PNG, lossless, whatever the suffix. Missing parent folders are created.

    Args:
        path: the file to write.
        image: ``[H, W, 3]`` RGB or ``[H, W, 4]`` RGBA, uint8 or uint16.

    Raises:
        InputError: the file cannot be written.
    """
    path = real(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _whole(path) as partial:
            save_png(partial, image)
    except OSError as error:
        raise _unwritable(path, error) from error


def check_writable(path: Path, codec: Codec | None = None) -> None:
    """Checks, before hours of work, that :func:`write_footage` could write to a path. Leaves nothing behind.

    Raises:
        InputError: loraedit does not write this suffix, the container does not take the codec, a folder is in the way,
            a parent is not a folder, or files cannot be created there.
    """
    path = real(path)
    try:
        _check_kind(path)
        choose_kind(path, codec)
        parent = next(parent for parent in path.parents if os.path.lexists(parent))
        if not parent.is_dir():
            raise InputError(f"{path} cannot be written: {parent} is not a folder. Choose another place.")
        probe = _partial_sibling(parent / path.name)  # the name that writing uses; os.access is always True for root
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise _unwritable(path, error) from error


def _check_kind(path: Path) -> None:
    """Checks that the suffix, and what exists at the path, allow a clip to be written."""
    suffix = path.suffix.lower()
    if suffix in _UNWRITABLE_SUFFIXES:
        raise InputError(f"Clips cannot be written as {suffix} ({path.name}). {OUTPUTS}")
    if not path.exists():
        return
    if is_container(path) and not path.is_file():
        raise InputError(f"{path} exists and is not a file, so no video can be written there. Choose another name.")
    if not is_container(path):
        _check_replaceable(path)


def _check_replaceable(path: Path) -> None:
    """Checks that a folder to be replaced holds nothing but frames written by loraedit."""
    if not path.is_dir():
        raise InputError(f"{path} exists and is not a folder. {OUTPUTS}")
    foreign = sorted(entry.name for entry in path.iterdir() if not re.fullmatch(r"[0-9]{5,}\.png", entry.name))
    if foreign:
        raise InputError(
            f"The folder {path} would be replaced, but holds files other than frames, such as {foreign[0]}. "
            "Choose a new folder, or empty this one."
        )


@contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """Yields a temporary name beside the target; moves it into place on success, and removes it on failure."""
    partial = _partial_sibling(path)
    try:
        yield partial
        if partial.is_dir():
            _replace_folder(partial, path)
        else:
            partial.replace(path)
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


def _partial_sibling(path: Path) -> Path:
    """Returns a hidden name beside the target, always the same, so that a later run replaces what a killed one left."""
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
