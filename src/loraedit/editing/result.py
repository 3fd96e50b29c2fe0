"""The result of an edit, with a name for each file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from loraedit.editing.profiling import ProfileRow
from loraedit.types import Footage

__all__ = ["EditFiles", "EditResult"]


@dataclass(frozen=True)
class EditFiles:
    """The files of an edit. Where None is allowed, it means that the edit did not write this file.

    Attributes:
        run: the run folder, which holds all files below except ``out``.
        settings: settings, input hashes, versions and device, as JSON.
        frames: the folder of the edited frames, lossless PNGs.
        sheet: the contact sheet of source, mask and result, a PNG.
        side_by_side: source and result next to each other, an MP4 for watching.
        loras: for each edit target, its LoRA files by expert name, the expert for high noise first.
        out: the output at the place that the user named.
        loss_curve: the training loss by step, a PNG.
        preview: the latest preview, a PNG.
        profile: the profile, as JSON.
    """

    run: Path
    settings: Path
    frames: Path
    sheet: Path
    side_by_side: Path
    loras: tuple[dict[str, Path], ...]
    out: Path | None = None
    loss_curve: Path | None = None
    preview: Path | None = None
    profile: Path | None = None

    def summary(self) -> dict[str, Any]:
        """Returns the paths as JSON values. Files that were not written are left out."""
        names = ("out", "frames", "sheet", "side_by_side", "loss_curve", "preview", "profile", "settings", "run")
        paths = {name: getattr(self, name) for name in names}
        loras = [{expert: str(path) for expert, path in files.items()} for files in self.loras]
        return {**{name: str(path) for name, path in paths.items() if path is not None}, "loras": loras}


@dataclass(frozen=True)
class EditResult:
    """The result of an edit.

    Attributes:
        clip: the edited clip. It is in memory (:class:`loraedit.types.Clip`) if the source was, or if there is no run
            folder to keep it; else it is read on demand from the run folder.
        files: the files of the edit; None if there is no run folder.
        wall_seconds: the duration of the whole edit.
        phase_seconds: the time spent in each phase.
        losses: training loss by step; empty if the edit uses no LoRA.
        reused: the phases whose result was found in the run folder or in the store.
        saved_steps: the training steps of the LoRAs that were found.
        saved_seconds: the time that these steps took where they were trained, as far as the store knows.
        outside_exact: True if every pixel outside the mask equals the source's in the lossless frames.
        profile: rows of phase, part, seconds and calls; empty without the ``profile`` setting.
        notes: one sentence for each thing that the user may not expect, such as sound that the output format cannot
            store. Those of the job come first.
    """

    clip: Footage
    files: EditFiles | None
    wall_seconds: float
    phase_seconds: dict[str, float]
    losses: list[float]
    reused: list[str]
    saved_steps: int
    saved_seconds: float
    outside_exact: bool
    profile: list[ProfileRow]
    notes: list[str]

    @property
    def lora_files(self) -> list[Path]:
        """The LoRA files of all edit targets in order, that of the expert for high noise first."""
        return [path for files in self.files.loras for path in files.values()] if self.files else []

    def summary(self) -> dict[str, Any]:
        """Returns the result, without clip and profile, as JSON values."""
        tenth = max(1, len(self.losses) // 10)
        return {
            **(self.files.summary() if self.files else {}),
            "wall_seconds": round(self.wall_seconds, 2),
            "phase_seconds": {name: round(value, 2) for name, value in self.phase_seconds.items()},
            "loss_first": _mean(self.losses[:tenth]),
            "loss_last": _mean(self.losses[-tenth:]),
            "reused": self.reused,
            "saved": {"train_steps": self.saved_steps, "seconds": round(self.saved_seconds, 2)},
            "outside_exact": self.outside_exact,
            "notes": self.notes,
        }


def _mean(losses: Sequence[float]) -> float | None:
    """Returns the mean, or None without any losses."""
    return float(np.mean(losses)) if losses else None
