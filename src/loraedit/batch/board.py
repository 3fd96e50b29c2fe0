"""The state of a batch and its results: for the terminal, and as tables."""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from loraedit.batch.schedule import Event

__all__ = ["Board", "Line", "as_csv", "as_json"]

State = Literal["waiting", "running", "done", "failed"]


@dataclass
class Line:
    """The state of one job.

    Attributes:
        name: the job's name.
        place: clip, look and seed in the grid.
        state: waiting, running, done or failed.
        worker: the worker that has it.
        tries: how often it was started.
        phase: the current phase, at step ``done`` of ``total``.
        since: when it was started, on the monotonic clock.
        why: why it failed or was started again.
        record: its outcome; see :mod:`loraedit.batch.work`.
    """

    name: str
    place: dict[str, str]
    state: State = "waiting"
    worker: str = ""
    tries: int = 0
    phase: str = ""
    done: int = 0
    total: int = 0
    since: float = 0.0
    why: str = ""
    record: dict[str, Any] = field(default_factory=dict)

    def row(self) -> dict[str, Any]:
        """Returns its row in the tables, the metrics last."""
        record = self.record
        return {
            "name": self.name,
            **{part: self.place.get(part, "") for part in ("clip", "look", "seed")},
            "state": self.state,
            "why": self.why,
            "tries": self.tries,
            **{name: record.get(name, "") for name in ("seconds", "host_mib", "device_mib", "outside_exact", "out")},
            **record.get("metrics", {}),
        }


class Board:
    """All jobs of a batch by name, in their order; ``ended`` counts those that have ended since the board was made."""

    def __init__(self, lines: Iterable[Line]) -> None:
        self.lines = {line.name: line for line in lines}
        self.running: dict[str, Line] = {}
        self.counts: dict[State, int] = dict.fromkeys(("waiting", "running", "done", "failed"), 0)
        self.began, self.ended = time.monotonic(), 0
        for line in self.lines.values():
            self.counts[line.state] += 1

    def update(self, event: Event) -> None:
        """Updates the board with an event."""
        line = self.lines[event.job]
        if event.kind == "started":
            self._turn(line, "running")
            line.worker, line.tries, line.phase, line.since = event.worker, event.done, "", time.monotonic()
        elif event.kind in ("progress", "trained"):
            line.phase, line.done, line.total = event.text, event.done, event.total
        elif event.kind == "done":
            self._turn(line, "done")
            line.record, line.why = event.record, ""
        else:
            self._turn(line, "waiting" if event.again else "failed")
            line.why = event.text

    def _turn(self, line: Line, state: State) -> None:
        self.counts[line.state] -= 1
        self.counts[state] += 1
        self.ended += state in ("done", "failed")
        line.state = state
        if state == "running":
            self.running[line.name] = line
        else:
            self.running.pop(line.name, None)

    def rows(self) -> list[dict[str, Any]]:
        """Returns a row for each job."""
        return [line.row() for line in self.lines.values()]

    def failures(self) -> list[Line]:
        """Returns the jobs that failed."""
        return [line for line in self.lines.values() if line.state == "failed"]


def as_csv(rows: Sequence[dict[str, Any]]) -> str:
    """Returns a table for spreadsheets, in which no text is read as a formula."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _plain(value) for name, value in row.items()} for row in rows)
    return text.getvalue()


def _plain(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value


def as_json(board: Board) -> str:
    """Returns everything known about each job, as JSON."""
    jobs = [{**line.row(), "place": line.place, "record": line.record} for line in board.lines.values()]
    return json.dumps({"counts": board.counts, "jobs": jobs}, indent=2, allow_nan=False) + "\n"
