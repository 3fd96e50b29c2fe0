"""The files of a user. Uploads are named by their content, and a browser can name them in no other way.

- ``clips/SHA.mp4``: an upload; ``SHA-A-B.mkv`` holds its frames from A up to B, exclusive, without loss.
- ``views/SHA.mp4/``: small JPEGs of all frames, and ``facts.json``.
- ``images/SHA.png``: edited frames and painted masks, as uploaded.
- ``masks/KEY/``: a mask; the key is a hash of everything that it is made from.
- ``plans/KEY/``: the plan of an edit.
- ``runs/ID/``: an edit.
- ``draft.json``: the present draft.
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

__all__ = ["CLIP_ID", "IMAGE_ID", "ClipFacts", "UserFiles", "png_bytes", "write_view"]

CLIP_ID = r"[0-9a-f]{16}(-\d{1,6}-\d{1,6})?\.(mp4|mkv|avi)"
IMAGE_ID = r"[0-9a-f]{16}\.(png|jpg|webp|bmp|tif)"
CLIP_FORMATS = {"mov,mp4,m4a,3gp,3g2,mj2": ".mp4", "matroska,webm": ".mkv", "avi": ".avi"}
CLIP_STARTS = {4: (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"), 0: (b"\x1a\x45\xdf\xa3", b"RIFF")}
"""The first bytes of video files, by offset. Playlists, which could name other files, begin with others."""

IMAGE_FORMATS = {"PNG": ".png", "JPEG": ".jpg", "WEBP": ".webp", "BMP": ".bmp", "TIFF": ".tif"}
MAX_DECODED = 2 << 30
"""The most bytes of a clip as RGB: the page and the command line hold a clip in memory."""
VIEW_PX = 960
"""The longer side of the pictures that the player shows."""


@dataclass(frozen=True)
class ClipFacts:
    """Facts about a clip. The notes name what a trimmed clip could not keep, such as sound."""

    frames: int
    width: int
    height: int
    fps: float
    notes: tuple[str, ...] = ()


class UserFiles:
    """The files of one user."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("clips", "views", "images", "masks", "plans", "runs", "incoming"):
            (folder / name).mkdir(parents=True, exist_ok=True)

    # ---- finding -------------------------------------------------------------------------------------------------

    def clip(self, name: object) -> Path:
        """Returns the path of a clip.

        Raises:
            InputError: the user has no clip of this name.
        """
        return self._known("clips", CLIP_ID, name, "clip")

    def image(self, name: object) -> Path:
        """Returns the path of an uploaded image.

        Raises:
            InputError: the user has no image of this name.
        """
        return self._known("images", IMAGE_ID, name, "image")

    def _known(self, kind: str, pattern: str, name: object, what: str) -> Path:
        path = self.folder / kind / str(name)
        if not isinstance(name, str) or re.fullmatch(pattern, name, re.ASCII) is None or not path.is_file():
            raise InputError(f"There is no such {what}. Upload it first.")
        return path

    def facts(self, name: str) -> ClipFacts:
        """Returns the facts about a clip."""
        folder = self._view_folder(self.clip(name))
        if not (folder / "facts.json").is_file():
            _write_views(folder, _clip(self.clip(name)))
        return ClipFacts(**read_json(folder / "facts.json"))

    def view(self, name: str, index: int) -> Path:
        """Returns the path of a small picture of a frame.

        Raises:
            InputError: there is no such frame.
        """
        self._check_frame(name, index)
        return self._view_folder(self.clip(name)) / f"{index:06d}.jpg"

    def frame(self, name: str, index: int) -> Image:
        """Returns a frame, uint8 ``[H, W, 3]``.

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
        """Keeps an uploaded clip and returns its name; removes the upload in any case.

        Raises:
            InputError: it is not a clip, or it is too large.
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
        """Keeps an uploaded image and returns its name; removes the upload in any case.

        Raises:
            InputError: it is not an image.
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
        """Cuts an uploaded clip without loss, with its sound; returns the name of the part.

        Args:
            name: the upload.
            first: the first frame.
            end: the frame after the last.

        Raises:
            InputError: the clip has no such frames, or is a part itself.
        """
        whole, facts = self.clip(name), self.facts(name)
        if "-" in whole.stem:
            raise InputError("This clip is already a part. Trim the uploaded clip again.")
        if not 0 <= first < end <= facts.frames:
            raise InputError(f"Frames {first} to {end - 1} are not in the clip. Expected 0 to {facts.frames - 1}.")
        if (first, end) == (0, facts.frames):
            return name
        path = whole.with_name(f"{whole.stem}-{first}-{end}.mkv")
        if not path.exists():
            temporary = self.folder / "incoming" / path.name
            notes = write_part(temporary, open_footage(whole), first, end)
            _write_views(self._view_folder(path), read_clip(temporary), notes)
            temporary.replace(path)
        return path.name

    def copy_in(self, source: Path) -> Path:
        """Copies a file of the example to the uploads."""
        target = self.folder / "incoming" / f"{source.parent.name}-{source.name}"
        shutil.copyfile(source, target)
        return target


def png_bytes(image: Image) -> bytes:
    """Returns an image as PNG."""
    buffer = io.BytesIO()
    PilImage.fromarray(image).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


@lru_cache(maxsize=2)
def _clip(path: Path) -> Clip:
    """Reads a clip; the two latest stay in memory."""
    return read_clip(path)


def _write_views(folder: Path, clip: Clip, notes: Sequence[str] = ()) -> None:
    """Writes a small picture of each frame, and then the facts, which mark the pictures as complete."""
    folder.mkdir(parents=True, exist_ok=True)
    for index, frame in enumerate(clip.frames):
        write_view(folder / f"{index:06d}.jpg", frame)
    facts = ClipFacts(len(clip), clip.size.width, clip.size.height, float(Fraction(clip.fps)), tuple(notes))
    write_json(folder / "facts.json", asdict(facts))


def write_view(path: Path, frame: Image) -> None:
    """Writes a small JPEG of a frame."""
    picture = PilImage.fromarray(frame)
    picture.thumbnail((VIEW_PX, VIEW_PX), PilImage.Resampling.BICUBIC)
    picture.save(path, "JPEG", quality=90)


def _clip_suffix(path: Path) -> str:
    """Returns the suffix for the content of a video file; checks its size before anything is decoded."""
    with path.open("rb") as file:
        start = file.read(16)
    if not any(start[at : at + len(word)] == word for at, words in CLIP_STARTS.items() for word in words):
        raise InputError("The file is not a supported video. Use an MP4, MOV, MKV, WebM or AVI file.")
    try:
        with av.open(str(path)) as container:
            suffix = CLIP_FORMATS.get(container.format.name)
            if suffix is None or not container.streams.video:
                raise InputError("The file has no video, or is not an MP4, MOV, MKV, WebM or AVI file.")
            stream = container.streams.video[0]
            bytes_a_frame = 3 * stream.width * stream.height
            frames = sum(1 for packet in container.demux(stream) if packet.size)
    except av.FFmpegError as error:
        raise InputError(f"The video cannot be read ({error.strerror}). Export it again.") from error
    if frames * bytes_a_frame > MAX_DECODED:
        fitting = MAX_DECODED // bytes_a_frame
        raise InputError(f"The clip has {frames} frames, but at this size at most {fitting} are accepted. Shorten it.")
    return suffix


def _image_suffix(path: Path) -> str:
    try:
        with PilImage.open(path, formats=list(IMAGE_FORMATS)) as image:
            return IMAGE_FORMATS[image.format or ""]
    except PilImage.DecompressionBombError as error:
        raise InputError("The image is too large. Scale it down.") from error
    except (OSError, SyntaxError, ValueError, KeyError) as error:
        raise InputError("The file is not a supported image. Use PNG, JPEG, WebP, BMP or TIFF.") from error
