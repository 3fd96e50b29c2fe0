"""Fits the share of its published speed that plans expect of a GPU."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from loraedit.planning.gpus import EFFICIENCIES, known_gpu
from loraedit.storage.files import read_json, write_json
from scripts.gpu_day.results import Line, latest
from scripts.gpu_day.training import SPEED, TRAINING_STAGE

__all__ = ["refit"]


def refit(lines: Sequence[Line], path: Path = EFFICIENCIES) -> list[str]:
    """Stores the measured share of each GPU, and returns a sentence about each."""
    told, entries = [], read_json(path)
    for line in latest(lines):
        if line["stage"] != TRAINING_STAGE.name or not line["measure"].endswith(SPEED):
            continue
        gpu = known_gpu(line["card"])
        if gpu is None:
            told.append(f"{line['card']} is not in the list of GPUs, so no share was stored.")
            continue
        share = round(line["value"] / gpu.tflops, 3)
        basis = f"{line['measure']}: {line['value']:.0f} TFLOP/s on {line['card']}, torch {line['torch']}"
        entries[gpu.name] = {"share": share, "source": "measured", "basis": basis}
        told.append(f"{gpu.name} reaches {share:.1%} of its published speed.")
    write_json(path, entries)
    return told
