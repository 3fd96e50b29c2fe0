"""The file of results: one JSON object a line, written as soon as it is known."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from scripts.gpu_day.stage import Finding

__all__ = ["FINISHED", "Line", "append", "failures", "finished", "latest", "read"]

Line = dict[str, Any]

FINISHED = "finished"
"""The measure of the last line of a stage."""


def append(path: Path, stage: str, finding: Finding, **facts: str) -> None:
    """Writes a finding to the file and to the screen.

    Args:
        path: the file.
        stage: name of the stage.
        finding: the finding.
        facts: what else the line holds, such as the card.
    """
    line = {"stage": stage, **asdict(finding), **facts, "torch": torch.__version__}
    text = json.dumps(line)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(f"{text}\n")
    print(text, flush=True)


def read(path: Path, scale: str) -> list[Line]:
    """Returns the lines of a file that were measured at a scale; none if there is no file."""
    texts = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [line for line in map(json.loads, texts) if line["scale"] == scale]


def latest(lines: Iterable[Line]) -> list[Line]:
    """Returns the last line of each measure, on each card; a stage that ran again replaces its failure before."""
    found: dict[tuple[str, ...], Line] = {}
    for line in lines:
        key = line["card"], line["stage"], line["measure"]
        found.pop(key, None)
        found[key] = line
        if line["measure"] == FINISHED:
            found.pop((line["card"], line["stage"], "failed"), None)
    return list(found.values())


def finished(lines: Iterable[Line]) -> set[str]:
    """Returns the stages that were carried out to their end."""
    return {line["stage"] for line in lines if line["measure"] == FINISHED}


def failures(lines: Iterable[Line], stages: Sequence[str]) -> list[Line]:
    """Returns what does not hold in some stages."""
    return [line for line in latest(lines) if line["stage"] in stages and line["holds"] is False]
