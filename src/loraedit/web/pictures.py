"""Pictures and files for the browser: frames, masks, results and downloads."""

from __future__ import annotations

import io
import re
import secrets
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image as PilImage

from loraedit.errors import InputError
from loraedit.web.drafts import MASK_KEY
from loraedit.web.user_files import UserFiles, png_bytes, write_view
from loraedit.web.user_jobs import mask_job, products, run_job

__all__ = ["picture", "product"]

OVERLAY = (255, 120, 0, 110)
"""The colour of a mask over its frame, RGBA."""
FRAME_FILE = "{:05d}.png"


def picture(files: UserFiles, kind: str, name: str, index: int) -> Path | bytes:
    """Returns the picture of a frame: a file, or the bytes of a PNG.

    Args:
        kind: ``view`` (a small JPEG of a clip's frame), ``frame`` (the frame itself), ``mask`` or ``result``.
        name: the clip, the mask or the run.
        index: the frame.

    Raises:
        InputError: there is no such picture.
    """
    if kind == "view":
        return files.view(name, index)
    if kind == "frame":
        return png_bytes(files.frame(name, index))
    if kind == "mask" and re.fullmatch(MASK_KEY, name, re.ASCII):
        return _overlay(_existing(mask_job(files, name).folder / "mask" / FRAME_FILE.format(index)))
    if kind == "result":
        return _result_view(run_job(files, name).folder, index)
    raise InputError("There is no such picture.")


def product(files: UserFiles, run: str, name: str) -> Path:
    """Returns a file of a run by the name that the page uses; a folder comes as a zip file.

    Raises:
        InputError: there is no such file.
    """
    job = run_job(files, run)
    path = products(job).get(name)
    if path is None:
        raise InputError("There is no such file.")
    return _zipped(path, job.folder / f"{name}.zip") if path.is_dir() else path


def _result_view(folder: Path, index: int) -> Path:
    """Returns a small JPEG of a result's frame."""
    view = folder / f"views/{index:06d}.jpg"
    if not view.exists():
        view.parent.mkdir(exist_ok=True)
        with PilImage.open(_existing(folder / "run/frames" / FRAME_FILE.format(index))) as image:
            write_view(view, np.asarray(image.convert("RGB")))
    return view


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise InputError("There is no such picture.")
    return path


def _overlay(path: Path) -> bytes:
    """Returns a mask as a PNG to lay over its frame: tinted where white, transparent elsewhere."""
    with PilImage.open(path) as image:
        mask = np.asarray(image.convert("L")) > 127
    tint = np.zeros((*mask.shape, 4), np.uint8)
    tint[mask] = OVERLAY
    buffer = io.BytesIO()
    PilImage.fromarray(tint).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _zipped(folder: Path, target: Path) -> Path:
    """Zips the files of a folder, unless this was done before; PNGs are stored as they are."""
    if not target.exists():
        partial = target.with_suffix(f".{secrets.token_hex(4)}")
        with zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive:
            for path in sorted(folder.iterdir()):
                archive.write(path, path.name)
        partial.replace(target)
    return target
