"""One person's files: uploads named by their content, and nothing that a browser can name in any other way.

- ``clips/SHA.mp4``: as uploaded; ``SHA-A-B.mkv`` is its part from frame A up to B, lossless.
- ``views/SHA.mp4/``: small JPEGs of all frames, and ``facts.json``.
- ``images/SHA.png``: edited frames, and masks painted by hand, as uploaded.
- ``masks/KEY/``: one mask, named by all that it is made from.
- ``plans/KEY/``: what one edit would take.
- ``runs/ID/``: one edit.
- ``draft.json``: what is on the page just now.
"""

from __future__ import annotations

import io
import re
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path

import av
from PIL import Image as PilImage

from loraedit.errors import InputError
from loraedit.storage.files import read_json, write_json
from loraedit.types import Clip, Image
from loraedit.video import open_footage, read_clip, read_image, write_part

__all__ = ["CLIP_ID", "IMAGE_ID", "ClipFacts", "Store", "png_bytes"]

CLIP_ID = r"[0-9a-f]{16}(-\d{1,6}-\d{1,6})?\.(mp4|mkv|avi)"
IMAGE_ID = r"[0-9a-f]{16}\.(png|jpg|webp|bmp|tif)"
CLIP_FORMATS = {"mov,mp4,m4a,3gp,3g2,mj2": ".mp4", "matroska,webm": ".mkv", "avi": ".avi"}
CLIP_STARTS = {4: (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"), 0: (b"\x1a\x45\xdf\xa3", b"RIFF")}
"""What a film begins with, by offset; playlists, which could name other files, begin otherwise."""

IMAGE_FORMATS = {"PNG": ".png", "JPEG": ".jpg", "WEBP": ".webp", "BMP": ".bmp", "TIFF": ".tif"}
MAX_DECODED = 2 << 30
"""Bytes of a clip as RGB; the page and the command line hold a clip in memory."""
VIEW_PX = 960
"""Longer side of the pictures that the page's player shows."""


@dataclass(frozen=True)
class ClipFacts:
    """What the page says of a clip; ``notes`` are sentences on what a part of a clip could not take with it."""

    frames: int
    width: int
    height: int
    fps: float
    notes: tuple[str, ...] = ()


class Store:
    """The folder of one person."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("clips", "views", "images", "masks", "plans", "runs", "incoming"):
            (folder / name).mkdir(parents=True, exist_ok=True)

    # ---- finding -------------------------------------------------------------------------------------------------

    def clip(self, name: object) -> Path:
        """Where a clip is.

        Raises:
            InputError: this person has none of that name.
        """
        return self._known("clips", CLIP_ID, name, "clip")

    def image(self, name: object) -> Path:
        """Where an uploaded image is.

        Raises:
            InputError: this person has none of that name.
        """
        return self._known("images", IMAGE_ID, name, "image")

    def _known(self, kind: str, pattern: str, name: object, what: str) -> Path:
        path = self.folder / kind / str(name)
        if not isinstance(name, str) or re.fullmatch(pattern, name, re.ASCII) is None or not path.is_file():
            raise InputError(f"There is no such {what}. Upload it first.")
        return path

    def facts(self, name: str) -> ClipFacts:
        """What is known of a clip."""
        folder = self._view_folder(self.clip(name))
        if not (folder / "facts.json").is_file():
            _write_views(folder, _clip(self.clip(name)))
        return ClipFacts(**read_json(folder / "facts.json"))

    def view(self, name: str, index: int) -> Path:
        """A small picture of a frame.

        Raises:
            InputError: there is no such frame.
        """
        self._check_frame(name, index)
        return self._view_folder(self.clip(name)) / f"{index:06d}.jpg"

    def frame(self, name: str, index: int) -> Image:
        """A frame as it is, uint8 ``[H, W, 3]``.

        Raises:
            InputError: there is no such frame.
        """
        self._check_frame(name, index)
        frame: Image = _clip(self.clip(name)).frames[index]
        return frame

    def _view_folder(self, clip: Path) -> Path:
        return self.folder / "views" / clip.name

    def _check_frame(self, name: str, index: int) -> None:
        frames = self.facts(name).frames
        if not 0 <= index < frames:
            raise InputError(f"There is no frame {index}. Expected 0 to {frames - 1}.")

    # ---- keeping -------------------------------------------------------------------------------------------------

    def keep_clip(self, upload: Path, digest: str) -> str:
        """Take an uploaded clip in, if it is one; the upload is gone in any case.

        Raises:
            InputError: it is no clip, or too large to work with.
        """
        try:
            suffix = _clip_suffix(upload)
            path = self.folder / "clips" / (digest[:16] + suffix)
            if not path.exists():
                clip = read_clip(upload)
                _write_views(self._view_folder(path), clip)
                upload.replace(path)
            return path.name
        except InputError as error:
            raise InputError(str(error).replace(str(upload), "The file")) from error
        finally:
            upload.unlink(missing_ok=True)

    def keep_image(self, upload: Path, digest: str) -> str:
        """Take an uploaded image in, if it is one; the upload is gone in any case.

        Raises:
            InputError: it is no image.
        """
        try:
            suffix = _image_suffix(upload)
            read_image(upload)
            path = self.folder / "images" / (digest[:16] + suffix)
            upload.replace(path)
            return path.name
        except InputError as error:
            raise InputError(str(error).replace(str(upload), "The file")) from error
        finally:
            upload.unlink(missing_ok=True)

    def cut(self, name: str, first: int, end: int) -> str:
        """The part of an uploaded clip from one frame up to another, exclusive, without loss, with its sound.

        Raises:
            InputError: there is no such part.
        """
        whole, facts = self.clip(name), self.facts(name)
        if "-" in whole.stem:
            raise InputError("Only a clip as uploaded can be trimmed. Trim that one again.")
        if not 0 <= first < end <= facts.frames:
            raise InputError(f"Frames {first} to {end - 1} are not in the clip. Expected 0 to {facts.frames - 1}.")
        if (first, end) == (0, facts.frames):
            return name
        path = whole.with_name(f"{whole.stem}-{first}-{end}.mkv")
        if not path.exists():
            passing = self.folder / "incoming" / path.name
            notes = write_part(passing, open_footage(whole), first, end)
            _write_views(self._view_folder(path), read_clip(passing), notes)
            passing.replace(path)
        return path.name

    def copy_in(self, source: Path) -> Path:
        """A file of the package's own, beside the uploads."""
        target = self.folder / "incoming" / f"{source.parent.name}-{source.name}"
        shutil.copyfile(source, target)
        return target


def png_bytes(image: Image) -> bytes:
    """An image as PNG."""
    buffer = io.BytesIO()
    PilImage.fromarray(image).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


@lru_cache(maxsize=2)
def _clip(path: Path) -> Clip:
    """A clip of a content-named file; the last two stay in memory."""
    return read_clip(path)


def _write_views(folder: Path, clip: Clip, notes: Sequence[str] = ()) -> None:
    """Pictures of all frames; the facts come last, so where they are, all is there."""
    folder.mkdir(parents=True, exist_ok=True)
    for index, frame in enumerate(clip.frames):
        write_view(folder / f"{index:06d}.jpg", frame)
    facts = ClipFacts(len(clip), clip.size.width, clip.size.height, float(Fraction(clip.fps)), tuple(notes))
    write_json(folder / "facts.json", asdict(facts))


def write_view(path: Path, frame: Image) -> None:
    """A small JPEG of a frame."""
    picture = PilImage.fromarray(frame)
    picture.thumbnail((VIEW_PX, VIEW_PX), PilImage.Resampling.BICUBIC)
    picture.save(path, "JPEG", quality=90)


def _clip_suffix(path: Path) -> str:
    """The suffix that a film should have, told by its content; checked for size before anything is decoded."""
    with path.open("rb") as file:
        start = file.read(16)
    if not any(start[at : at + len(word)] == word for at, words in CLIP_STARTS.items() for word in words):
        raise InputError("The file is no video of a kind that is taken. Give an MP4, MOV, MKV, WebM or AVI file.")
    try:
        with av.open(str(path)) as container:
            suffix = CLIP_FORMATS.get(container.format.name)
            if suffix is None or not container.streams.video:
                raise InputError("The file has no picture, or is of another kind than MP4, MOV, MKV, WebM or AVI.")
            stream = container.streams.video[0]
            bytes_a_frame = 3 * stream.width * stream.height
            frames = sum(1 for packet in container.demux(stream) if packet.size)
    except av.FFmpegError as error:
        raise InputError(f"The file cannot be read as a video ({error.strerror}). Export it again.") from error
    if frames * bytes_a_frame > MAX_DECODED:
        fitting = MAX_DECODED // bytes_a_frame
        raise InputError(f"The clip has {frames} frames; at this size at most {fitting} are taken. Shorten it first.")
    return suffix


def _image_suffix(path: Path) -> str:
    try:
        with PilImage.open(path, formats=list(IMAGE_FORMATS)) as image:
            return IMAGE_FORMATS[image.format or ""]
    except PilImage.DecompressionBombError as error:
        raise InputError("The image is too large to be decoded safely. Scale it down.") from error
    except (OSError, SyntaxError, ValueError, KeyError) as error:
        taken = "a PNG, JPEG, WebP, BMP or TIFF"
        raise InputError(f"The file is no image of a kind that is taken. Give {taken}.") from error
