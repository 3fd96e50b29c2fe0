"""Reads and writes still images."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av
import cv2
import numpy as np
from av.video.reformatter import VideoReformatter
from PIL import ExifTags
from PIL import Image as PilImage

from loraedit.errors import InputError
from loraedit.storage.files import check_plain
from loraedit.types import Image, Stored
from loraedit.video.facts import Turn
from loraedit.video.pixels import Layout, layout_of, stored_pixels, to_rgb

__all__ = ["IMAGE_SUFFIXES", "check_image", "read_image", "read_stored", "save_png"]

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"})
"""Suffixes, in lower case, that count as an image: a frame in a folder, a mask for all frames."""

_SIXTEEN = re.compile(";16[BLN]")
_TURNS = {
    2: Turn(True, 0), 3: Turn(False, 2), 4: Turn(True, 2), 5: Turn(True, 1),
    6: Turn(False, 3), 7: Turn(True, 3), 8: Turn(False, 1),
}  # fmt: skip


def check_image(path: Path) -> None:
    """Checks that an image is there, from its header alone.

    Raises:
        InputError: as :func:`read_image`.
    """
    with _opened(path):
        pass


def read_image(path: Path) -> Image:
    """Reads an image as 8-bit RGB, turned upright by its EXIF orientation.

    16 bits are rounded to 8; palettes and CMYK are converted; transparent pixels are laid over black.

    Returns:
        ``[H, W, 3]`` uint8 RGB.

    Raises:
        InputError: there is no such file, it is not exactly one image, or it is too large.
    """
    pixels = read_stored(path)
    if pixels.shape[-1] == 3:
        return to_rgb(pixels)
    opacity = pixels[..., 3:] / np.iinfo(pixels.dtype).max
    return to_rgb(np.rint(pixels[..., :3] * opacity).astype(pixels.dtype))


def read_stored(path: Path) -> Stored:
    """Reads an image with all its bits and its opacity, turned upright.

    Returns:
        ``[H, W, 3]`` RGB or ``[H, W, 4]`` RGBA, uint8, or uint16 if the file has 16 bits.

    Raises:
        InputError: as :func:`read_image`.
    """
    with _opened(path) as image:
        layout = _layout(image)  # before anything is decoded
        image.load()
        if layout.depth == 8:
            pixels: Stored = np.array(image.convert("RGBA" if layout.alpha else "RGB"), dtype=np.uint8)
        elif image.mode.startswith("I"):
            grey = np.asarray(image).clip(0, 65535).astype(np.uint16)
            pixels = np.repeat(grey[..., None], 3, axis=-1)
        else:
            pixels = _read_deep(Path(path))
        return _turn(image).apply(pixels)


@contextmanager
def _opened(path: Path) -> Iterator[PilImage.Image]:
    if not path.is_dir() and path.exists():
        check_plain(path, "an image")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # about damaged tags, which are not used
            warnings.simplefilter("error", PilImage.DecompressionBombWarning)
            with PilImage.open(path) as image:
                count = getattr(image, "n_frames", 1)
                if count > 1 and image.format != "MPO":  # the second picture of an MPO is a preview
                    raise InputError(f"{path} holds {count} pictures. Expected one; convert an animation to a video.")
                if image.mode == "F":
                    raise ValueError("its pixels are floating-point numbers of unknown range, expected 8 or 16 bits")
                yield image
    except (PilImage.DecompressionBombError, PilImage.DecompressionBombWarning) as error:
        raise InputError(f"{path} is too large to decode safely: {error} Scale the image down.") from error
    except FileNotFoundError as error:
        raise InputError(f"There is no image at {path}. Check the path.") from error
    except (OSError, SyntaxError, ValueError, EOFError, OverflowError, av.FFmpegError) as error:
        raise InputError(f"{path} cannot be read as an image ({error}). Save it again as PNG.") from error


def _layout(image: PilImage.Image) -> Layout:
    """Returns the layout of a file. Pillow decodes 16-bit colours to 8 bits; only its raw mode names the depth."""
    grey = image.mode.startswith("I")
    tiles = getattr(image, "tile", None)
    coded = str(tiles[0].args) if tiles else ""
    return Layout(16 if grey or _SIXTEEN.search(coded) else 8, image.has_transparency_data and not grey)


def _turn(image: PilImage.Image) -> Turn:
    return _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1), Turn(False, 0))


def _read_deep(path: Path) -> Stored:
    """Reads 16-bit colours with FFmpeg, which keeps them."""
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
        layout = layout_of(frame, "")
        return stored_pixels(frame, Layout(16, layout.alpha), VideoReformatter())


def save_png(path: Path, pixels: Stored) -> None:
    """Writes ``[H, W, 3]`` or ``[H, W, 4]``, uint8 or uint16, as PNG."""
    assert pixels.dtype in (np.uint8, np.uint16) and pixels.ndim == 3 and pixels.shape[-1] in (3, 4)
    if pixels.dtype == np.uint8:
        PilImage.fromarray(pixels).save(path, format="PNG")
        return
    order = cv2.COLOR_RGBA2BGRA if pixels.shape[-1] == 4 else cv2.COLOR_RGB2BGR
    _, content = cv2.imencode(".png", cv2.cvtColor(pixels, order))
    path.write_bytes(content.tobytes())
