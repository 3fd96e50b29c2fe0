"""The trackers by name, checked before anything heavy loads."""

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
"""What a checkpoint's ``config.json`` may call itself."""


def open_tracker(name: str, folder: Path | None, text: str | None = None, device: str | None = None) -> Tracker:
    """A tracker that is ready to load its weights, which it does when it is first asked to track.

    Args:
        name: one of ``TRACKERS``.
        folder: the checkpoint as transformers saves it, with safetensors; none for the embedded one.
        text: what to look for, in words; SAM 3 alone reads them.
        device: where to run; None takes the best one.

    Raises:
        InputError: there is no such tracker, it has no use for what is given, or a package is missing.
        ModelError: the folder holds no such checkpoint.
    """
    if name not in TRACKERS:
        raise InputError(f"There is no tracker '{name}'. Known are {', '.join(TRACKERS)}.")
    if text is not None and name != "sam3":
        raise InputError(f"The tracker {name} reads no text. Give --tracker sam3 and its weights, or a --point.")
    if name == "embedded":
        if folder is not None:
            raise InputError("The embedded tracker has no weights. Leave out --tracker-model, or name its --tracker.")
        return FlowTracker()
    if folder is None:
        raise InputError(f"The tracker {name} needs its weights. Give --tracker-model the folder of its checkpoint.")
    kind = _kind(name, folder)
    if text is not None and kind != "sam3_video":
        raise ModelError(f"'{folder}' is SAM 3's tracker alone, which reads no text. Give the whole checkpoint.")
    if (name == "edgetam" and not _installed("timm")) or (text is not None and not _installed("torchvision")):
        what = "EdgeTAM needs timm" if name == "edgetam" else "SAM 3 needs torchvision to read text"
        raise InputError(f"{what}. Install it with: pip install 'loraedit[trackers]'")
    from loraedit.tracking.sam import SamTracker  # heavy: torch

    return SamTracker(name, folder, text, device)


def _kind(name: str, folder: Path) -> str:
    """What the checkpoint calls itself."""
    config = folder / "config.json"
    try:
        kind = read_json(config).get("model_type")
    except (OSError, ValueError, AttributeError) as error:
        raise ModelError(f"'{folder}' is no checkpoint: its config.json cannot be read ({error}).") from error
    if kind not in MODEL_TYPES[name]:
        raise ModelError(
            f"'{folder}' holds a model of the kind '{kind}', but the tracker {name} expects {MODEL_TYPES[name][0]}. "
            "Give another --tracker-model or --tracker."
        )
    if not list(folder.glob("*.safetensors")):
        raise ModelError(f"'{folder}' holds no .safetensors weights, and others are never loaded. Convert them first.")
    return str(kind)


def _installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None
