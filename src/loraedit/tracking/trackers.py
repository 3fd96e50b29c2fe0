"""The trackers by name, and the factory that opens one; everything is checked before weights load."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Literal, get_args

from loraedit.errors import InputError, ModelError
from loraedit.storage.files import read_json
from loraedit.tracking.base import Tracker
from loraedit.tracking.embedded import FlowTracker

__all__ = ["TRACKERS", "TrackerName", "open_tracker"]

TrackerName = Literal["embedded", "sam2", "edgetam", "sam3"]
TRACKERS: tuple[TrackerName, ...] = get_args(TrackerName)

MODEL_TYPES = {
    "sam2": ("sam2_video", "sam2"),
    "edgetam": ("edgetam_video", "edgetam"),
    "sam3": ("sam3_video", "sam3_tracker_video"),
}
"""The accepted values of ``model_type`` in a checkpoint's ``config.json``; the first is the complete model."""


def open_tracker(name: str, folder: Path | None, text: str | None = None, device: str | None = None) -> Tracker:
    """Opens a tracker; it loads its weights when it tracks for the first time.

    Args:
        name: one of ``TRACKERS``.
        folder: the checkpoint in the format of transformers, with safetensors; None for the embedded tracker.
        text: a description of the object; only SAM 3 reads text.
        device: where to run; None chooses the best device.

    Raises:
        InputError: the name is unknown, an argument does not fit the tracker, or a package is missing.
        ModelError: the folder holds no such checkpoint.
    """
    if name not in TRACKERS:
        raise InputError(f"Unknown tracker '{name}'. Use one of: {', '.join(TRACKERS)}.")
    if text is not None and name != "sam3":
        raise InputError(
            f"The tracker {name} does not read text. Use --tracker sam3 with its weights, or give a --point."
        )
    if name == "embedded":
        if folder is not None:
            raise InputError("The embedded tracker has no weights. Remove --tracker-model, or add --tracker.")
        return FlowTracker()
    if folder is None:
        raise InputError(f"The tracker {name} needs weights. Set --tracker-model to the folder of its checkpoint.")
    kind = _kind(name, folder)
    if text is not None and kind != "sam3_video":
        raise ModelError(
            f"'{folder}' holds only the tracker of SAM 3, which does not read text. Use the complete checkpoint."
        )
    if (name == "edgetam" and not _installed("timm")) or (text is not None and not _installed("torchvision")):
        what = "EdgeTAM needs timm" if name == "edgetam" else "SAM 3 needs torchvision to read text"
        raise InputError(f"{what}. Install it with: pip install '.[trackers]'")
    from loraedit.tracking.sam import SamTracker  # heavy: torch

    return SamTracker(name, folder, text, device)


def _kind(name: str, folder: Path) -> str:
    """Reads and checks the model type of a checkpoint."""
    config = folder / "config.json"
    try:
        kind = read_json(config).get("model_type")
    except (OSError, ValueError, AttributeError) as error:
        raise ModelError(f"'{folder}' is not a checkpoint: its config.json cannot be read ({error}).") from error
    if kind not in MODEL_TYPES[name]:
        raise ModelError(
            f"'{folder}' holds a model of type '{kind}', but the tracker {name} expects {MODEL_TYPES[name][0]}. "
            "Change --tracker-model or --tracker."
        )
    if not list(folder.glob("*.safetensors")):
        raise ModelError(
            f"'{folder}' holds no .safetensors weights, and no other format is loaded. Convert the weights first."
        )
    return str(kind)


def _installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None
