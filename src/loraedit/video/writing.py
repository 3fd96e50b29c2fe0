"""Clips and images onto the disk: whole, under their final name, or not at all."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import av
import numpy as np
from PIL import Image as PilImage

from loraedit.errors import InputError
from loraedit.types import Clip, Codec, Image
from loraedit.video.encoding import write_video
from loraedit.video.formats import OUTPUTS, Kind, choose_kind, is_container
from loraedit.video.reading import IMAGE_SUFFIXES

__all__ = ["check_writable", "write_clip", "write_image"]

_UNWRITABLE_SUFFIXES = IMAGE_SUFFIXES | {".3gp", ".apng", ".avi", ".avif", ".exr", ".flv", ".gif", ".heic", ".m2ts"}
_UNWRITABLE_SUFFIXES |= {".m4v", ".mpeg", ".mpg", ".mts", ".mxf", ".ogv", ".ts", ".webm", ".wmv", ".y4m"}


def write_clip(path: Path, clip: Clip, codec: Codec | None = None) -> list[str]:
    """Write a clip; the suffix of the name, and the codec if one is given, choose how. Missing parent folders are made.

    - ``.mp4``, ``.mov``: H.264, or H.265, AV1 (.mp4), ProRes 422 HQ, PNG (.mov). H.264, H.265 and AV1 are yuv420p,
      which has even sides only: an odd width or height grows by one column or row, a copy of the last one, so that no
      pixel of the clip is lost and every player can show it; so with ProRes.
    - ``.mkv``: FFV1 in RGB, lossless, any size; or H.264, H.265, AV1, ProRes.
    - no suffix, or one that is not of a video or image: a folder of PNGs named 00000.png and so on, lossless. The
      frame rate is not kept. An existing folder is replaced if it holds nothing but such PNGs.

    A clip with an origin is written to a video with the origin's timestamps, counted from the start of its file,
    its pixel aspect and its colour tags, and with its sound, subtitles, chapters and titles, copied as they are.
    Frames are upright, so no rotation is written. A clip without one is coded as BT.709, at an even rate.

    The same frames give the same bytes on the same machine.

    Returns:
        One sentence for each thing of the origin that the file could not take.

    Raises:
        InputError: the name or the place cannot be written to, the codec does not go there, or the clip has no frames.
    """
    path = _real(path)
    check_writable(path, codec)
    if len(clip) == 0 or clip.fps <= 0:
        raise InputError(f"A clip of {len(clip)} frames at {clip.fps} fps cannot be written. Both must be above zero.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return _write_whole(path, clip, choose_kind(path, codec))
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


def check_writable(path: Path, codec: Codec | None = None) -> None:
    """Find out, before hours of work, whether ``write_clip`` could write there. Leaves nothing behind.

    Raises:
        InputError: the suffix is of a kind that loraedit does not write, or the codec does not go there, a folder is
            in the way, a parent is no folder, or files cannot be made there.
    """
    path = _real(path)
    try:
        _check_kind(path)
        choose_kind(path, codec)
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
        raise InputError(f"Clips cannot be written as {suffix} ({path.name}). {OUTPUTS}")
    if not path.exists():
        return
    if is_container(path) and not path.is_file():
        raise InputError(f"{path} exists and is not a file, so no video can be written there. Choose another name.")
    if not is_container(path):
        _check_replaceable(path)


def _check_replaceable(path: Path) -> None:
    """Refuse to replace what is not a folder of frames written by loraedit."""
    if not path.is_dir():
        raise InputError(f"{path} exists and is not a folder. {OUTPUTS}")
    foreign = sorted(entry.name for entry in path.iterdir() if not re.fullmatch(r"[0-9]{5,}\.png", entry.name))
    if foreign:
        raise InputError(
            f"The folder {path} holds other things than frames, such as {foreign[0]}, and would be replaced. "
            "Choose a new folder, or empty this one."
        )


def _write_whole(path: Path, clip: Clip, kind: Kind | None) -> list[str]:
    """Write under a passing name beside the target, then move into place."""
    partial = _partial_sibling(path)
    notes: list[str] = []
    try:
        if kind is not None:
            notes = write_video(partial, clip, kind)
            partial.replace(path)
        else:
            partial.mkdir()
            for index, frame in enumerate(clip.frames):
                _save_png(partial / f"{index:05d}.png", frame)
            _replace_folder(partial, path)
    finally:
        _remove(partial)
    return notes


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
