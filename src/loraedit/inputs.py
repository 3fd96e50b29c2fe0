"""From what the user gave to what the workflow takes: read, checked against each other, and refused early.

Nothing here needs torch, so a mistake is answered before anything heavy loads.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loraedit.compose import resize_frames, to_float, to_uint8
from loraedit.config import EditSettings
from loraedit.errors import InputError, ShapeError
from loraedit.families.card import ModelCard, read_card, resolve_model
from loraedit.masks import MaskSpec, read_mask
from loraedit.types import Clip, Image, Mask, Size
from loraedit.video import DEFAULT_FPS, check_writable, read_clip, read_image

__all__ = ["ClipLike", "ImageLike", "Job", "parse_reference", "prepare"]

ClipLike = str | Path | Clip | NDArray[Any]
ImageLike = str | Path | NDArray[Any]


@dataclass(frozen=True)
class Job:
    """One edit, everything read and checked.

    Attributes:
        source: the clip.
        edited_first: the user's edit of its first frame, uint8 ``[H, W, 3]``.
        edit_mask: bool ``[F, H, W]``, True = edit.
        references: further edited frames by frame index, from 0.
        settings: resolved settings.
        card: the model.
        out: where the user wants the result, or None.
        run: the run folder, or None for a passing one.
    """

    source: Clip
    edited_first: Image
    edit_mask: Mask
    references: dict[int, Image]
    settings: EditSettings
    card: ModelCard
    out: Path | None
    run: Path | None


def prepare(
    source: ClipLike,
    first_frame: ImageLike,
    mask: MaskSpec | None,
    references: Mapping[int, ImageLike],
    settings: EditSettings,
    out: Path | None,
    run: Path | None,
) -> Job:
    """Read and check everything.

    Raises:
        InputError: something cannot be read, or does not fit.
        ModelError: the checkpoint is not one that loraedit can edit with.
    """
    card = read_card(resolve_model(settings.model))
    _check_device(settings.device)
    out, run = _places(source, out, run)
    clip = _clip(source)
    edited = _edited_frame(first_frame, clip.size, settings.fit, "The edited first frame")
    if mask is None:
        raise InputError(
            "No mask was given. Give --mask a video, a folder, an image, or a box 'x0,y0,x1,y1'; white is the edit."
        )
    edit_mask = read_mask(mask, len(clip), clip.size)
    _check_covered(clip, edited, edit_mask)
    looks = {
        index: _edited_frame(image, clip.size, settings.fit, f"The reference for frame {index}")
        for index, image in references.items()
    }
    _check_references(looks, clip, edit_mask, settings)
    return Job(clip, edited, edit_mask, looks, settings.resolved(card.recipe), card, out, run)


def parse_reference(text: str) -> tuple[int, Path]:
    """``K=PATH`` to frame index and path.

    Raises:
        InputError: it is not of that form.
    """
    match = re.fullmatch(r"(-?\d+)=(.+)", text, re.DOTALL)
    if match is None:
        raise InputError(f"Reference '{text}' is not of the form K=EDITED_K.png, K being a frame index from 0.")
    return int(match[1]), Path(match[2])


def _clip(source: ClipLike) -> Clip:
    if isinstance(source, Clip):
        return source
    if isinstance(source, str | Path):
        return read_clip(Path(source))
    frames = np.asarray(source)
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or 0 in frames.shape:
        raise InputError(
            f"The source array is {frames.dtype} {list(frames.shape)}. Expected uint8 [F, H, W, 3], F at least 1."
        )
    return Clip(frames, DEFAULT_FPS)


def _edited_frame(image: ImageLike, size: Size, fit: bool, what: str) -> Image:
    pixels: Image = read_image(Path(image)) if isinstance(image, str | Path) else np.asarray(image)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[-1] != 3 or 0 in pixels.shape:
        raise InputError(f"{what} is {pixels.dtype} {list(pixels.shape)}. Expected uint8 [H, W, 3].")
    given = Size(pixels.shape[0], pixels.shape[1])
    if given == size:
        return pixels
    if not fit:
        raise ShapeError(
            f"{what} is {given}, but the clip is {size}. Give it the clip's size, or add --fit to resize it."
        )
    fitted: Image = to_uint8(resize_frames(to_float(pixels[None]), size))[0]
    return fitted


def _check_covered(clip: Clip, edited: Image, edit_mask: Mask) -> None:
    """Something has to be changed in frame 1, and where the mask is."""
    changed = (clip.frames[0] != edited).any(-1)
    if not changed.any():
        raise InputError("The edited first frame equals the source's first frame. Edit it with an image editor first.")
    if not (changed & edit_mask[0]).any():
        raise InputError(
            "Nothing inside the mask differs between the source's first frame and the edited one. "
            "White must be where the edit is; check that the mask isn't inverted."
        )


def _check_references(looks: Mapping[int, Image], clip: Clip, edit_mask: Mask, settings: EditSettings) -> None:
    for index in looks:
        if not 0 < index < len(clip):
            raise InputError(
                f"There is no frame {index} to take a reference for. Expected 1 to {len(clip) - 1}, counted from 0 "
                "(frame 0 is the edited first frame)."
            )
        if not edit_mask[index].any():
            raise InputError(f"The mask is black in frame {index}, so its reference cannot be used. Choose another.")
    if looks and settings.lora != "motion":
        raise InputError(f"References need the motion LoRA, but --lora is {settings.lora}. Leave one of them out.")


def _check_device(device: str | None) -> None:
    if device is not None and not re.fullmatch(r"(cpu|cuda|mps|xpu)(:\d+)?", device):
        raise InputError(f"Device '{device}' is not known. Expected cpu, cuda, cuda:1, mps or xpu.")


def _places(source: ClipLike, out: Path | None, run: Path | None) -> tuple[Path | None, Path | None]:
    """Output and run folder, both writable and neither in the other's way."""
    if out is not None:
        check_writable(out)
        _check_not_source(source, out)
        run = run or out.with_name(f"{out.stem}-run")
    if run is not None:
        if run.exists() and not run.is_dir():
            raise InputError(f"The run folder '{run}' is a file. Give --run a folder.")
        if out is not None and out.resolve() == run.resolve():
            raise InputError(f"Output and run folder are both '{out}'. Give them different names.")
        check_writable(run / "frames")
    return out, run


def _check_not_source(source: ClipLike, out: Path) -> None:
    if isinstance(source, str | Path) and out.exists() and Path(source).exists() and out.samefile(source):
        raise InputError(f"The output '{out}' is the source itself. Give --out another name.")
