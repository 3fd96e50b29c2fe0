"""Runs one job of a batch: fetches its inputs, edits, measures, and shares its LoRA with other jobs."""

from __future__ import annotations

import os
import socket
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image as PilImage

from loraedit.batch.jobs import BatchJob, folder_of
from loraedit.batch.local import Report
from loraedit.batch.places import Depot
from loraedit.job.prepare import prepare
from loraedit.job.request import EditRequest
from loraedit.settings import make_settings
from loraedit.storage.files import read_json, write_bytes, write_json
from loraedit.types import Footage

if TYPE_CHECKING:
    from loraedit.families.kept_weights import KeptWeights

__all__ = ["OUTCOME_FILE", "EditTask", "read_outcome"]

OUTCOME_FILE = "outcome.json"
"""File in a job's folder, written last: the job is done."""
STORE = "store"
"""Folder of the LoRAs that jobs share."""
REPORT_EVERY_S = 0.5
THUMB_PX = 160


def read_outcome(folder: Path, key: str) -> dict[str, Any] | None:
    """Returns the outcome in a job's folder, or None if the job is not done or has changed since."""
    try:
        record = read_json(folder / OUTCOME_FILE)
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) and record.get("key") == key else None


@dataclass(frozen=True)
class EditTask:
    """Runs edits in a worker; a :data:`loraedit.batch.local.Task`.

    Attributes:
        place: the batch's folder, a path or a URL.
        device: ``cpu``, or None for the best there is.
        image_encoder: folder of the metrics' model, or None.
    """

    place: str
    device: str | None = None
    image_encoder: str | None = None

    def __call__(self, job: BatchJob, report: Report) -> dict[str, Any]:
        """Runs or continues a job; returns its record for the tables."""
        depot = Depot(self.place)
        with depot.kept_up(folder_of(job.name)) as folder:
            known = read_outcome(folder, job.key)
            if known is not None:  # the job was done, but its event was lost
                return known
            folder.mkdir(parents=True, exist_ok=True)
            (folder / OUTCOME_FILE).unlink(missing_ok=True)
            depot.pull(STORE)
            record = self._edit(job, folder, _Reporter(report, depot), str(depot.local / STORE))
            write_json(folder / OUTCOME_FILE, record)
        return record

    def _edit(self, job: BatchJob, folder: Path, reporter: _Reporter, store: str) -> dict[str, Any]:
        from loraedit.editing import run_edit
        from loraedit.evaluate import evaluate_run
        from loraedit.families.kept_weights import keeping_weights

        began, memory = time.monotonic(), _Memory()
        settings = make_settings({**job.settings, "store": store, "device": self.device})
        request = EditRequest(**job.inputs(), settings=settings, out=folder / job.out, run=folder / "run")
        prepared = prepare(request, reporter)
        with keeping_weights(kept=_worker_weights()):
            result = run_edit(prepared, reporter)
        reporter("evaluate", 0, 1, "")
        measured = evaluate_run(folder / "run", None if self.image_encoder is None else Path(self.image_encoder))
        _write_thumb(folder / "thumb.jpg", prepared.source, result.clip)
        return {
            "key": job.key,
            "name": job.name,
            "out": f"{folder_of(job.name)}/{job.out}",
            "report": f"{folder_of(job.name)}/run/report.html",
            "seconds": round(time.monotonic() - began, 2),
            "phases": {name: round(seconds, 2) for name, seconds in result.phase_seconds.items()},
            "reused": result.reused,
            "outside_exact": result.outside_exact,
            **memory.peaks(),
            "metrics": measured.metrics,
            "notes": result.notes,
            "host": f"{socket.gethostname()}:{os.getpid()}",
        }


@cache
def _worker_weights() -> KeptWeights:
    """Returns the components that this process keeps in host memory from job to job."""
    from loraedit.families.kept_weights import KeptWeights

    return KeptWeights(between_edits=True)


class _Reporter:
    """Reports progress at a limited rate, and reports when others can use the LoRA."""

    def __init__(self, report: Report, depot: Depot) -> None:
        self._report, self._depot = report, depot
        self._last, self._phase, self._trained = 0.0, "", False

    def __call__(self, phase: str, done: int, total: int, _note: str) -> None:
        if phase in ("sample", "decode", "compose") and not self._trained:
            self._trained = True
            self._depot.push(STORE)
            self._report("trained", phase, done, total)
        now = time.monotonic()
        if phase != self._phase or now - self._last >= REPORT_EVERY_S:
            self._last, self._phase = now, phase
            self._report("progress", phase, done, total)


class _Memory:
    """Measures the peak memory of a job, on the host and on the device.

    The host's figure is the process's own. It includes what the process keeps between jobs, and on systems other than
    Linux it is the peak since the process started.
    """

    def __init__(self) -> None:
        import torch

        self._device = torch.accelerator if torch.accelerator.is_available() else None
        if self._device is not None:
            self._device.reset_peak_memory_stats()
        if sys.platform == "linux":
            with suppress(OSError):
                Path("/proc/self/clear_refs").write_text("5")

    def peaks(self) -> dict[str, int]:
        """Returns the peaks in MiB; without an accelerator, the host's alone."""
        found = {"host_mib": _host_peak() >> 20}
        if self._device is not None:
            found["device_mib"] = int(self._device.max_memory_allocated()) >> 20
        return found


def _host_peak() -> int:
    """Returns the peak of this process in bytes."""
    if sys.platform == "linux":
        lines = Path("/proc/self/status").read_text().splitlines()
        return next((int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM")), 0)
    if sys.platform == "win32":
        return 0
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _write_thumb(path: Path, source: Footage, result: Footage) -> None:
    """Writes the middle frames of source and result beside each other."""
    at = len(source) // 2
    frames = [next(footage.rgb(at, at + 1)) for footage in (source, result)]
    small = (THUMB_PX, max(1, round(THUMB_PX * source.size.height / source.size.width)))
    tiles = [np.asarray(PilImage.fromarray(frame).resize(small)) for frame in frames]
    content = BytesIO()
    PilImage.fromarray(np.concatenate(tiles, 1)).save(content, "JPEG", quality=80)
    write_bytes(path, content.getvalue())
