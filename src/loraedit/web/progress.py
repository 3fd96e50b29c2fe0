"""How a job goes, read from the lines that its command writes."""

from __future__ import annotations

import json
from typing import Any

from loraedit.errors import ended_by_signal
from loraedit.web.jobs import Job

__all__ = ["progress_of", "sentence_of"]

MAX_LOSSES = 300
"""Points of the loss curve that are sent to the page."""


def progress_of(job: Job) -> dict[str, Any]:
    """The phases in order, and the loss so far.

    Returns:
        ``phases``: name, steps done, steps in all, seconds taken and seconds left (None if not known yet) of each;
        ``losses``: pairs of step and loss.
    """
    phases: dict[str, dict[str, Any]] = {}
    losses: list[tuple[int, float]] = []
    for event in _events(job):
        name = event["phase"]
        if name == "preview" and event["note"]:
            continue  # a picture that was made on the way through another phase
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


def sentence_of(job: Job) -> str:
    """Why a failed job has failed, as its command put it."""
    lines = [line for line in job.said() if line.strip() and not line.startswith("{")]
    said = [line.removeprefix("loraedit: ") for line in lines if line.startswith("loraedit: ")]
    if said:
        return said[-1]
    code = (job.codes() or [0])[-1]
    if code < 0:
        return ended_by_signal(-code)
    return lines[-1] if lines else f"The run ended with code {code} and said nothing."


def _events(job: Job) -> list[dict[str, Any]]:
    events = []
    for line in job.said():
        if line.startswith('{"phase"'):
            try:
                events.append(json.loads(line))
            except ValueError:
                continue  # the last line may be half written
    return events


def _timed(phase: dict[str, Any]) -> dict[str, Any]:
    """Seconds left, from the pace so far."""
    seconds, steps = phase["at"] - phase["began"], phase["done"] - phase["first"]
    left = seconds / steps * (phase["total"] - phase["done"]) if steps > 0 else None
    if phase["done"] == phase["total"]:
        left = 0.0
    return {"name": phase["name"], "done": phase["done"], "total": phase["total"], "seconds": seconds, "left": left}


def _loss(note: str) -> float | None:
    """``transformer loss 0.1234`` to a number."""
    _, found, number = note.rpartition("loss ")
    try:
        return float(number) if found else None
    except ValueError:
        return None
