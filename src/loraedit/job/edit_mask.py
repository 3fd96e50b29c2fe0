"""Makes or reads the edit mask of a request."""

from __future__ import annotations

from pathlib import Path

from loraedit.errors import InputError
from loraedit.job.check import CheckedRequest
from loraedit.job.edits import union
from loraedit.job.inputs import Inputs
from loraedit.masks.reading import read_mask
from loraedit.masks.shaping import loosen
from loraedit.masks.tube import MaskTube
from loraedit.tracking import LooseMaskOptions, mask_from_edit, open_tracker
from loraedit.types import Progress, steps_of

__all__ = ["edit_mask_of", "loose_mask_of", "shaped"]


def edit_mask_of(checked: CheckedRequest, inputs: Inputs, progress: Progress) -> MaskTube:
    """Returns the edit mask of everything: the union of the objects' masks, the one given, or one made by tracking.

    Args:
        progress: called with the phase "mask" while a mask is made.

    Raises:
        InputError: the mask cannot be read or made, or does not fit the edited frames.
    """
    return shaped(loose_mask_of(checked, inputs, progress), checked, inputs)


def shaped(loose: MaskTube, checked: CheckedRequest, inputs: Inputs) -> MaskTube:
    """Turns a loose mask into boxes and grows it, as the settings say, and checks it against the edited frames.

    Args:
        loose: the mask as :func:`loose_mask_of` returns it. Those of objects are shaped when they are read.

    Raises:
        InputError: it does not fit the edited frames.
    """
    settings = checked.settings
    mask = loose if inputs.objects else loosen(loose, settings.mask_boxes, settings.dilate_px)
    _check_first_frame(inputs, mask)
    for index in inputs.references:
        if mask.box(index) is None:
            raise InputError(f"The mask is black in frame {index}, so its reference cannot be used. Choose another.")
    return mask


def loose_mask_of(checked: CheckedRequest, inputs: Inputs, progress: Progress) -> MaskTube:
    """Returns the mask as it is given or tracked.

    Raises:
        InputError: it cannot be read or made.
    """
    settings, given, clip = checked.settings, checked.request.given_mask, inputs.source
    if inputs.objects:
        return union(inputs.objects)
    if given is not None:
        return read_mask(given, len(clip), clip.size)
    progress("mask", 0, 1, "")
    folder = None if settings.tracker_model is None else Path(settings.tracker_model)
    tracker = open_tracker(settings.tracker, folder, None, settings.device)
    options = LooseMaskOptions(settings.margin)
    return MaskTube(mask_from_edit(clip, inputs.keyframes, options, tracker, steps_of(progress, "mask")))


def _check_first_frame(inputs: Inputs, mask: MaskTube) -> None:
    """Checks that the first frame is edited, and that the mask covers some of it."""
    changed = (next(inputs.source.rgb(0, 1)) != inputs.edited_first).any(-1)
    if not changed.any():
        raise InputError("The edited first frame equals the source's first frame. Edit it with an image editor first.")
    if not (changed & mask[0]).any():
        raise InputError(
            "Nothing inside the mask differs between the source's first frame and the edited one. "
            "White must be where the edit is; check that the mask isn't inverted."
        )
