"""Edit masks: read, loosen, soften, shrink, and hand to the model.

A mask is an edit mask everywhere, ``[F, H, W]`` bool, True (white) = regenerate, False (black) = keep.
``pack_keep_mask`` is the one place where polarity turns, because channel-mask models read 1 as keep.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator
from itertools import repeat
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from loraedit.errors import InputError, ShapeError
from loraedit.mask_tube import MaskTube
from loraedit.types import Image, Mask, Plane, Size, Weights
from loraedit.video import IMAGE_SUFFIXES, open_footage, read_image

__all__ = [
    "MaskSpec",
    "box_regions",
    "dilate",
    "feather",
    "loosen",
    "pack_keep_mask",
    "pack_token_mask",
    "read_mask",
    "resize_mask",
    "to_picture",
]

MaskSpec = str | Path | NDArray[Any]
"""What a user may give as a mask; ``read_mask`` says how each is read."""

_Plane = NDArray[np.uint8]
_Value = TypeVar("_Value", bound=np.generic)
_BOX = re.compile(r"\s*(-?\d{1,9})\s*,\s*(-?\d{1,9})\s*,\s*(-?\d{1,9})\s*,\s*(-?\d{1,9})\s*")
_WHITE = 128


def read_mask(spec: MaskSpec, frames: int, size: Size) -> MaskTube:
    """Read the user's mask for a clip, frame by frame; white is the region to regenerate.

    Args:
        spec: one of
            a box ``"x0,y0,x1,y1"`` in pixels (x to the right, y down, x1 and y1 exclusive), for all frames;
            an image, for all frames; a video or a folder of frames, one per frame of the clip;
            an array ``[H, W]`` or ``[F, H, W]``: bool, uint8 (white from 128) or float in 0 to 1 (from 0.5).
            Pictures are turned to grey first, and are white from 128 of 255.
        frames: F, the number of frames of the clip.
        size: height and width of the clip.

    Returns:
        The mask, True = regenerate; some pixel is True and some is False.

    Raises:
        ShapeError: the mask has another length or size than the clip, or the box leaves the frame.
        InputError: the mask cannot be read, is black everywhere, or white everywhere.
    """
    planes, count, got = _read_any(spec, size)
    if got != size:
        raise ShapeError(f"The mask is {got}, but the clip is {size}. Give the mask the size of the clip.")
    if count is None:
        planes = repeat(next(iter(planes)), frames)
    elif count != frames:
        raise ShapeError(
            f"The mask has {count} frames, but the clip has {frames}. "
            "Give one mask for each frame, or a single image for all of them."
        )
    tube = MaskTube(planes)
    _check_content(tube)
    return tube


def _read_any(spec: MaskSpec, size: Size) -> tuple[Iterable[Plane], int | None, Size]:
    """The planes, how many there are (None: one, for all frames), and their size."""
    if not isinstance(spec, str | Path):
        return _spread(_from_values(_array_of(spec)))
    box = _BOX.fullmatch(spec) if isinstance(spec, str) else None
    if box is not None:
        x0, y0, x1, y1 = (int(number) for number in box.groups())
        return _spread(_from_box(x0, y0, x1, y1, size))
    return _from_path(Path(spec))


def _spread(mask: Mask) -> tuple[Iterable[Plane], int | None, Size]:
    single = mask.ndim == 2
    return [mask] if single else mask, None if single else len(mask), Size(*mask.shape[-2:])


def _from_path(path: Path) -> tuple[Iterable[Plane], int | None, Size]:
    if not path.exists():
        raise InputError(
            f'There is no mask at {path}. Give a video, a folder of frames, an image, or a box as "x0,y0,x1,y1" '
            "in whole pixels."
        )
    if path.suffix.lower() in IMAGE_SUFFIXES and not path.is_dir():
        return _spread(_from_rgb(read_image(path)))
    footage = open_footage(path)
    return (_from_rgb(frame) for frame in footage.rgb()), len(footage), footage.size


def _from_rgb(pixels: Image) -> Mask:
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY) >= _WHITE)


def _from_box(x0: int, y0: int, x1: int, y1: int, size: Size) -> Mask:
    if x1 <= x0 or y1 <= y0:
        raise InputError(f"The mask box {x0},{y0},{x1},{y1} is empty. Expected x0,y0,x1,y1 with x0 < x1 and y0 < y1.")
    if min(x0, y0) < 0 or x1 > size.width or y1 > size.height:
        raise ShapeError(
            f"The mask box {x0},{y0},{x1},{y1} leaves the frame, which is {size}. "
            f"Expected x from 0 to {size.width} and y from 0 to {size.height}."
        )
    mask = np.zeros((size.height, size.width), np.bool_)
    mask[y0:y1, x0:x1] = True
    return mask


def _array_of(values: object) -> NDArray[Any]:
    """An array of whatever numpy can read as one, such as a tensor on the CPU."""
    try:
        return np.asarray(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"A mask cannot be made of this {type(values).__name__} ({error}). Give bool, uint8 or float."
        ) from error


def _from_values(values: NDArray[Any]) -> Mask:
    if values.ndim not in (2, 3):
        raise ShapeError(f"A mask is [H, W] or [F, H, W], but this one has the shape {list(values.shape)}.")
    if values.dtype == np.bool_:
        return values
    if values.dtype == np.uint8:
        return np.asarray(values >= _WHITE)
    if not np.issubdtype(values.dtype, np.floating):
        raise InputError(f"A mask cannot be made of {values.dtype} values. Give bool, uint8 or float.")
    if not bool(((values >= 0) & (values <= 1)).all()):  # NaN is neither
        raise InputError("A float mask holds NaN or values outside 0 to 1. Expected 0 to 1, where 1 is regenerate.")
    return np.asarray(values >= 0.5)


def _check_content(mask: MaskTube) -> None:
    if not mask.any():
        raise InputError(
            "The mask is black everywhere, so there is nothing to edit. Paint the region to regenerate white "
            "(255, not 1)."
        )
    if mask.all():
        raise InputError(
            "The mask is white everywhere, so nothing would be preserved. Leave the region to keep black; "
            "if that is what is white now, invert the mask."
        )


def box_regions(mask: Mask, grow: float = 0.1) -> Mask:
    """Replace each connected region of each frame by its bounding box, grown; a loose mask beats a tight one.

    A tight mask would force the new object into the outline of the old one.

    Args:
        mask: ``[F, H, W]`` bool, True = regenerate. Regions connect over corners too.
        grow: added on each of the four sides, as a fraction of the box's width or height, rounded to pixels.

    Returns:
        ``[F, H, W]`` bool, True = regenerate, covering ``mask``; boxes end at the frame.

    Raises:
        InputError: ``grow`` is negative.
    """
    if not grow >= 0:
        raise InputError(f"A mask cannot grow by {grow}. Expected 0 or more, such as 0.1 for a tenth on each side.")
    return _each_frame(mask, lambda plane: _boxes(plane, grow)).astype(np.bool_)


def _boxes(plane: _Plane, grow: float) -> _Plane:
    boxes = np.zeros_like(plane)
    _, _, regions, _ = cv2.connectedComponentsWithStats(plane, connectivity=8)
    for x, y, width, height, _ in regions[1:].tolist():  # 0 is the background
        dx, dy = int(grow * width + 0.5), int(grow * height + 0.5)
        boxes[max(y - dy, 0) : y + height + dy, max(x - dx, 0) : x + width + dx] = 1
    return boxes


def dilate(mask: Mask, radius_px: float) -> Mask:
    """Grow a mask by a disk: every pixel within ``radius_px`` of a masked one, centre to centre, is masked.

    Args:
        mask: ``[F, H, W]`` bool, True = regenerate.
        radius_px: 0 changes nothing.

    Returns:
        ``[F, H, W]`` bool, covering ``mask``.

    Raises:
        InputError: ``radius_px`` is negative or not finite.
    """
    _check_radius(radius_px)
    return _each_frame(mask, lambda plane: _distance_to_zero(1 - plane) <= radius_px)


def loosen(mask: MaskTube, box: bool, dilate_px: float) -> MaskTube:
    """Grow a mask as asked: first by a disk, then each region to its box.

    Raises:
        InputError: nothing would be left to keep.
    """
    if not box and not dilate_px:
        return mask
    loose = MaskTube(_loosened(mask, box, dilate_px))
    if loose.all():
        raise InputError("The grown mask is white everywhere, so nothing would be preserved. Grow it less.")
    return loose


def _loosened(mask: MaskTube, box: bool, dilate_px: float) -> Iterator[Plane]:
    for plane in mask:
        grown = dilate(plane[None], dilate_px) if dilate_px else plane[None]
        yield (box_regions(grown) if box else grown)[0]


def feather(mask: Mask, radius_px: float) -> Weights:
    """Soften a mask inwards, for blending: 0 outside, rising linearly from the border to 1 at ``radius_px`` inside.

    A masked pixel's value is its distance to the nearest unmasked pixel, centre to centre, over ``radius_px``, at
    most 1. The edge of the frame is not a border of the mask.

    Args:
        mask: ``[F, H, W]`` bool, True = regenerate.
        radius_px: up to 1 gives the mask itself as 0 and 1.

    Returns:
        ``[F, H, W]`` float32 in [0, 1], exactly 0 outside the mask and above 0 inside.

    Raises:
        InputError: ``radius_px`` is negative or not finite.
    """
    _check_radius(radius_px)
    reach = max(radius_px, 1.0)
    return _each_frame(mask, lambda plane: np.minimum(_distance_to_zero(plane) / np.float32(reach), np.float32(1)))


def _check_radius(radius_px: float) -> None:
    if not 0 <= radius_px < math.inf:
        raise InputError(f"A mask cannot be changed over {radius_px} pixels. Expected a radius of 0 or more.")


def _distance_to_zero(plane: _Plane) -> NDArray[np.float32]:
    """``[H, W]``: Euclidean distance of each pixel to the nearest 0; infinite where the plane holds none."""
    if plane.all():
        return np.full(plane.shape, np.inf, dtype=np.float32)
    distance = cv2.distanceTransform(plane, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.asarray(distance, dtype=np.float32)


def _each_frame(mask: Mask, change: Callable[[_Plane], NDArray[_Value]]) -> NDArray[_Value]:
    """Apply a change to each ``[H, W]`` plane of 0 and 1."""
    assert mask.dtype == np.bool_ and mask.ndim == 3
    return np.stack([change(plane) for plane in mask.astype(np.uint8)])


def resize_mask(mask: Mask, size: Size) -> Mask:
    """Resize a mask so that no masked pixel is lost: a new pixel is masked if any pixel it overlaps is.

    Args:
        mask: ``[F, H, W]`` bool, True = regenerate.
        size: the new height and width, larger or smaller.

    Returns:
        ``[F, size.height, size.width]`` bool.
    """
    assert mask.dtype == np.bool_ and mask.ndim == 3
    if mask.shape[1:] == (size.height, size.width):
        return mask
    return _cover(_cover(mask, size.height, axis=1), size.width, axis=2)


def _cover(mask: Mask, cells: int, axis: int) -> Mask:
    """Resize one axis of ``[F, H, W]``: cell i overlaps the pixels from first[i] to last[i]."""
    pixels = mask.shape[axis]
    index = np.arange(cells)
    first, last = index * pixels // cells, -(-(index + 1) * pixels // cells) - 1
    covered: Mask = mask.take(first, axis)
    for step in range(1, int((last - first).max()) + 1):
        covered |= mask.take(np.minimum(first + step, last), axis)
    return covered


def to_picture(plane: Plane) -> Image:
    """The mask of a frame as people see it, uint8 ``[H, W, 3]``: white = edit, black = keep."""
    return np.repeat(plane[..., None] * np.uint8(255), 3, axis=-1)


def pack_keep_mask(edit_mask: Mask, latent_height: int, latent_width: int, temporal_factor: int) -> NDArray[np.float32]:
    """Turn an edit mask into the keep mask of a channel-mask model: 1 = keep, 0 = generate, at latent size.

    Packed as in Wan image-to-video models: frame 1 is repeated ``temporal_factor`` (tf) times, so that the time axis
    has tf * f entries; each latent frame then carries tf channels, one for each of its pixel frames.

    In space, a latent cell is to be generated if any of its pixels is. The reference takes the nearest pixel instead,
    which is the same for whole-frame masks, but at a border can tell the model to keep a cell that is partly edited,
    and can lose a thin region.

    Args:
        edit_mask: ``[F, H, W]`` bool, True = regenerate, F = tf * n + 1.
        latent_height: h.
        latent_width: w.
        temporal_factor: tf, pixel frames per latent frame.

    Returns:
        ``[tf, f, h, w]`` float32, 1 = keep, with f = n + 1.

    Raises:
        ShapeError: F is not tf * n + 1.
    """
    frames = int(edit_mask.shape[0])
    if frames < 1 or (frames - 1) % temporal_factor:
        raise ShapeError(
            f"A mask of {frames} frames cannot be packed. Expected {temporal_factor}n + 1 frames; pad or cut the clip."
        )
    keep = ~resize_mask(edit_mask, Size(latent_height, latent_width))
    keep = np.concatenate([np.repeat(keep[:1], temporal_factor, axis=0), keep[1:]])
    packed = keep.reshape(-1, temporal_factor, latent_height, latent_width).swapaxes(0, 1)
    return packed.astype(np.float32, order="C")


def pack_token_mask(
    edit_mask: Mask, latent_height: int, latent_width: int, temporal_factor: int, patch: int
) -> NDArray[np.float32]:
    """Turn an edit mask into the keep mask of a model with one timestep a token: 1 = keep, at latent size.

    A token is kept only if nothing in it is edited: no pixel of its cells, in none of its latent frame's pixel frames.

    Args:
        edit_mask: ``[F, H, W]`` bool, True = regenerate, F = tf * n + 1.
        latent_height: h, a multiple of ``patch``.
        latent_width: w, the same.
        temporal_factor: tf, pixel frames per latent frame.
        patch: latent cells of a token, per side.

    Returns:
        ``[1, f, h, w]`` float32, constant in each token.

    Raises:
        ShapeError: F is not tf * n + 1.
    """
    rows, columns = latent_height // patch, latent_width // patch
    keep = pack_keep_mask(edit_mask, rows, columns, temporal_factor).min(0, keepdims=True)
    return np.repeat(np.repeat(keep, patch, axis=2), patch, axis=3)
