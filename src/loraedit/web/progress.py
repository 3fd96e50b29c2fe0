"""Reads the progress of a job from the lines that its command writes."""

from __future__ import annotations

import json
from typing import Any

from loraedit.errors import ended_by_signal
from loraedit.phases import phase_label
from loraedit.web.jobs import Job

__all__ = ["error_of", "progress_of"]

MAX_LOSSES = 300
"""The most points of the loss curve that the page gets."""


def progress_of(job: Job) -> dict[str, Any]:
    """Returns the phases in order, and the loss so far.

    Returns:
        ``phases``: name, label, steps done, all steps, seconds taken and seconds left (None if unknown) of each;
        ``losses``: pairs of step and loss.
    """
    phases: dict[str, dict[str, Any]] = {}
    losses: list[tuple[int, float]] = []
    for event in _events(job):
        name = event["phase"]
        if name == "preview" and event["note"]:
            continue  # a preview that was written during another phase
        phase = phases.setdefault(name, {"name": name, "began": event["at"], "first": event["done"]})
        if event["total"] != 1 or "total" not in phase:  # 0 of 1 opens a phase, 1 of 1 ends it
            phase |= {"done": event["done"], "total": event["total"]}
        elif event["done"] == 1:
            phase["done"] = phase["total"]
        phase["at"] = event["at"]
        loss = _loss(event["note"])
        if loss is not None:
            losses.append((event["done"], loss))
    stride = -(-len(losses) // MAX_LOSSES) or 1
    return {"phases": [_timed(phase) for phase in phases.values()], "losses": losses[::-1][::stride][::-1]}


def error_of(job: Job) -> str:
    """Returns the error message of a failed job."""
    lines = [line for line in job.error_lines() if line.strip() and not line.startswith("{")]
    messages = [line.removeprefix("loraedit: ") for line in lines if line.startswith("loraedit: ")]
    if messages:
        return messages[-1]
    code = (job.codes() or [0])[-1]
    if code < 0:
        return ended_by_signal(-code)
    return lines[-1] if lines else f"The command ended with code {code} and without a message."


def _events(job: Job) -> list[dict[str, Any]]:
    events = []
    for line in job.error_lines():
        if line.startswith('{"phase"'):
            try:
                events.append(json.loads(line))
            except ValueError:
                continue  # the last line may be incomplete
    return events


def _timed(phase: dict[str, Any]) -> dict[str, Any]:
    """Returns a phase with the seconds left, estimated from its speed so far."""
    seconds, steps = phase["at"] - phase["began"], phase["done"] - phase["first"]
    left = seconds / steps * (phase["total"] - phase["done"]) if steps > 0 else None
    if phase["done"] == phase["total"]:
        left = 0.0
    counts = {"done": phase["done"], "total": phase["total"]}
    return {"name": phase["name"], "label": phase_label(phase["name"]), **counts, "seconds": seconds, "left": left}


def _loss(note: str) -> float | None:
    """Returns the loss of a note such as ``transformer loss 0.1234``; None if it has none."""
    _, found, number = note.rpartition("loss ")
    try:
        return float(number) if found else None
    except ValueError:
        return None
