"""A quick look at what a checkpoint is worth: benchmark edits by the paper's method, without any optical flow."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import loraedit
from benchmarks.propagation.cases import KINDS, PER_KIND, Case, make_case
from benchmarks.truth_metrics import psnr
from loraedit.types import Frames
from pretrain.checkpoints import append_log
from pretrain.config import GatePlan

__all__ = ["run_gate"]

METHODS = ("source", "none", "motion")


def cases(plan: GatePlan) -> list[tuple[str, int]]:
    """Returns which cases are edited: one of each kind first."""
    return [(kind, number) for number in range(PER_KIND) for kind in KINDS][: plan.cases]


def edit(case: Case, method: str, folder: Path, plan: GatePlan, device: str | None) -> Frames:
    """Edits a case; ``source`` returns it unchanged, ``none`` and ``motion`` are the package's LoRA modes."""
    if method == "source":
        return case.source
    settings: dict[str, Any] = {
        "model": str(folder), "recipe": "paper", "lora": method, "steps": plan.steps, "lr": plan.lr, "prior": False,
        "sampling_steps": plan.sampling_steps, "preview": False, "store": "none", "device": device,
    }  # fmt: skip
    return loraedit.edit(case.source, case.truth[0], case.mask, **settings).clip.frames


def run_gate(folder: Path, plan: GatePlan, log: Path, device: str | None, over: Callable[[], bool]) -> dict[str, float]:
    """Edits the cases and logs the mean PSNR of what was edited, in dB, by method.

    Args:
        folder: the checkpoint.
        over: asked after each case; no further case is begun once it returns True.
    """
    scores: dict[str, list[float]] = {method: [] for method in METHODS}
    began = time.monotonic()
    for kind, number in cases(plan):
        case = make_case(kind, number, plan.frames, plan.side, plan.side)
        for method in METHODS:
            frames = edit(case, method, folder, plan, device)
            scores[method].append(float(psnr(frames[1:], case.truth[1:], case.region[1:])))
        last = {method: round(values[-1], 2) for method, values in scores.items()}
        append_log(log, case=case.name, seconds=round(time.monotonic() - began), **last)
        if over():
            break
    means = {method: round(float(np.mean(values)), 2) for method, values in scores.items()}
    append_log(log, cases=len(scores["source"]), **means)
    return means
