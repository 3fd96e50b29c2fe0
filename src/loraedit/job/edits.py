"""References and objects of an edit: parsed from text, read, and checked against the clip."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loraedit.errors import InputError, ShapeError
from loraedit.masks.reading import MaskSpec, read_mask
from loraedit.masks.shaping import loosen
from loraedit.masks.tube import MaskTube
from loraedit.runs.kept import KeptObject
from loraedit.types import Footage, Image, Plane, Size
from loraedit.video import read_image
from loraedit.video.scaling import resize_frames, to_float, to_uint8

__all__ = [
    "EditObject",
    "ImageLike",
    "changed",
    "check_objects",
    "joint_prompt",
    "object_of",
    "parse_object",
    "parse_references",
    "read_edit",
    "read_object",
    "union",
]

ImageLike = str | Path | NDArray[Any]

OBJECT_FORM = "NAME:mask=PATH,reference=K=PNG,prompt=TEXT"
OBJECT_FIELDS = ("name", "mask", "references", "prompt")


@dataclass(frozen=True)
class EditObject:
    """One of several objects that are edited at once, as the user gave it.

    Attributes:
        name: unique; used in messages.
        mask: where it is edited, as :func:`loraedit.masks.reading.read_mask` takes it.
        references: edited frames by frame index, from which this object alone is learnt.
        prompt: joined to the prompt of the edit.
    """

    name: str
    mask: MaskSpec
    references: Mapping[int, ImageLike] = field(default_factory=dict)
    prompt: str = ""


# ---- from text -------------------------------------------------------------------------------------------------------


def parse_references(texts: Sequence[str]) -> dict[int, Path]:
    """Parses texts ``K=PATH`` to paths by frame index.

    Raises:
        InputError: a text is not of that form, or an index is given twice.
    """
    references: dict[int, Path] = {}
    for text in texts:
        match = re.fullmatch(r"(-?\d{1,9})=(.+)", text, re.DOTALL)
        if match is None:
            raise InputError(f"Reference '{text}' is not of the form K=EDITED_K.png, K being a frame index from 0.")
        index = int(match[1])
        if index in references:
            raise InputError(f"There are two references for frame {index}. Give one for each frame.")
        references[index] = Path(match[2])
    return references


def parse_object(text: str) -> EditObject:
    """Parses ``NAME:mask=PATH,reference=K=PNG,prompt=TEXT``, keys in any order, ``reference`` several times.

    A comma separates two keys only if ``KEY=`` follows directly, so boxes and prompts may contain commas.

    Raises:
        InputError: it is not of that form, a key is unknown or given twice, or there is no mask.
    """
    name, colon, rest = text.partition(":")
    pairs = [part.partition("=") for part in re.split(r",(?=[A-Za-z_-]+=)", rest)]
    if not colon or not all(between for _, between, _ in pairs):
        raise InputError(f"Object '{text}' is not of the form {OBJECT_FORM}.")
    values: dict[str, list[str]] = {"mask": [], "reference": [], "prompt": []}
    for key, _, value in pairs:
        if key not in values:
            raise InputError(f"Object '{name}' has the unknown key '{key}'. Known are mask, reference and prompt.")
        if key != "reference" and values[key]:
            raise InputError(f"Object '{name}' has two values for {key}. Give one.")
        values[key].append(value)
    if not any(values["mask"]):
        raise InputError(f"Object '{name}' has no mask. Expected {OBJECT_FORM}.")
    return EditObject(name, values["mask"][0], parse_references(values["reference"]), "".join(values["prompt"]))


def object_of(values: Mapping[str, Any]) -> EditObject:
    """Makes an object from values by name: ``name``, ``mask``, and optionally ``references`` and ``prompt``.

    Raises:
        InputError: a name is unknown, or the name or mask is missing.
    """
    unknown = [key for key in values if key not in OBJECT_FIELDS]
    if unknown:
        raise InputError(f"An object has no '{unknown[0]}'. Known are {', '.join(OBJECT_FIELDS)}.")
    missing = [key for key in ("name", "mask") if values.get(key) is None]
    if missing:
        named = f" '{values['name']}'" if values.get("name") else ""
        raise InputError(f"An object{named} has no {missing[0]}. Give each a name and a mask.")
    return EditObject(
        str(values["name"]), values["mask"], dict(values.get("references") or {}), str(values.get("prompt", ""))
    )


# ---- read and checked ------------------------------------------------------------------------------------------------


def read_edit(image: ImageLike, size: Size, fit: bool, what: str) -> Image:
    """Reads an edited frame, and checks its size.

    Args:
        image: a path, or uint8 ``[H, W, 3]``.
        size: the clip's size.
        fit: resize a frame of another size.
        what: name of the frame in messages.

    Returns:
        uint8 ``[H, W, 3]``.

    Raises:
        InputError: it cannot be read, or has another size.
    """
    pixels: Image = read_image(Path(image)) if isinstance(image, str | Path) else np.asarray(image)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[-1] != 3 or 0 in pixels.shape:
        raise InputError(f"{what} is {pixels.dtype} {list(pixels.shape)}. Expected uint8 [H, W, 3].")
    found = Size(pixels.shape[0], pixels.shape[1])
    if found == size:
        return pixels
    if not fit:
        raise ShapeError(
            f"{what} is {found}, but the clip is {size}. Give it the clip's size, or add --fit to resize it."
        )
    fitted: Image = to_uint8(resize_frames(to_float(pixels[None]), size))[0]
    return fitted


def check_objects(objects: Sequence[EditObject], mask: MaskSpec | None, references: Mapping[int, ImageLike]) -> None:
    """Checks objects before anything is read.

    Args:
        mask: a mask of everything, or None.
        references: edited frames of everything by frame index.

    Raises:
        InputError: two have the same name, one has no mask of its own, or something is given twice.
    """
    if objects and mask is not None:
        raise InputError("With --object every object has a mask of its own. Leave --mask out.")
    names = [each.name for each in objects]
    for each in objects:
        if not each.name.strip():
            raise InputError(f"An object has no name. Expected {OBJECT_FORM}.")
        if names.count(each.name) > 1:
            raise InputError(f"There are two objects '{each.name}'. Give each a name of its own.")
        if isinstance(each.mask, str) and each.mask == "auto":
            raise InputError(
                f"Object '{each.name}' cannot have an automatic mask. Make one with 'loraedit mask', and give that."
            )
        for index in each.references:
            if index in references:
                raise InputError(
                    f"Frame {index} has a reference for everything and one for object '{each.name}'. Leave one out."
                )


def read_object(
    asked: EditObject, source: Footage, edited_first: Image, fit: bool, box: bool, dilate_px: int
) -> KeptObject:
    """Reads an object's mask and references, and checks them against the clip.

    Args:
        source: the clip.
        edited_first: the edited first frame, in which an object without references must be edited.
        fit: resize edited frames of another size.
        box: turn each region of the mask into its box.
        dilate_px: number of pixels to grow the mask by.

    Raises:
        InputError: something cannot be read, or changes nothing inside the mask.
    """
    try:
        mask = loosen(read_mask(asked.mask, len(source), source.size), box, dilate_px)
    except InputError as error:
        raise type(error)(f"Object '{asked.name}': {error}") from error
    keyframes = {
        index: read_edit(image, source.size, fit, f"The reference of object '{asked.name}' for frame {index}")
        for index, image in asked.references.items()
    }
    for index, image in keyframes.items():
        if mask.box(index) is None:
            raise InputError(
                f"The mask of object '{asked.name}' is black in frame {index}, so its reference there cannot be used. "
                "Choose another frame."
            )
        if not (changed(image, source, index) & mask[index]).any():
            raise InputError(
                f"The reference of object '{asked.name}' for frame {index} changes nothing inside that object's mask. "
                "Give it to the object that it shows."
            )
    if not keyframes and not (changed(edited_first, source, 0) & mask[0]).any():
        raise InputError(
            f"Object '{asked.name}' is not edited: inside its mask the edited first frame equals the source, and "
            "it has no reference. Edit it, or leave it out."
        )
    return KeptObject(asked.name, mask, keyframes, asked.prompt)


def joint_prompt(prompt: str, of_objects: Sequence[str]) -> str:
    """Joins the prompts of the objects to the prompt of the edit.

    Raises:
        InputError: the prompt is "auto": a caption of the frame describes the objects too.
    """
    words = [each for each in of_objects if each]
    if words and prompt == "auto":
        raise InputError("With --prompt auto the objects are described too. Leave out their prompts, or the auto.")
    return ", ".join([prompt, *words] if prompt else words)


def union(objects: Sequence[KeptObject]) -> MaskTube:
    """Returns the union of the objects' masks.

    Raises:
        InputError: it covers everything.
    """
    planes = (np.logical_or.reduce(planes) for planes in zip(*(each.mask for each in objects), strict=True))
    mask = MaskTube(planes)
    if mask.all():
        raise InputError("The masks of the objects leave nothing to preserve. Give smaller masks.")
    return mask


def changed(image: Image, source: Footage, index: int) -> Plane:
    """Returns where an edited frame differs from the clip's frame, bool ``[H, W]``."""
    plane: Plane = (next(source.rgb(index, index + 1)) != image).any(-1)
    return plane
