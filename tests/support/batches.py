"""Writes batches (clips with their edits, and a jobs file), and reads what their jobs did."""

from __future__ import annotations

import hashlib
import json
import os
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

from scenes import make_scene

from loraedit.batch.local import Report
from loraedit.batch.schedule import Event
from loraedit.types import Clip
from loraedit.video import write_clip, write_image

COLOURS = [(40, 60, 220), (40, 220, 60), (220, 200, 40)]
HEAD = """
folder = "{folder}"
seeds = {seeds}
[defaults]
model = "{model}"
source = "{{clip}}.mkv"
first_frame = "{{clip}}-{{look}}.png"
mask = "5,7,20,25"
steps = {steps}
sampling_steps = {sampling_steps}
colour_variants = 1
area = {area}
"""


def write_batch(
    root: Path, model: str, clips: int, looks: int, folder: str = "out", seeds: tuple[int, ...] = (),
    name: str = "jobs.toml", steps: int = 2, sampling_steps: int = 1, area: float = 1.0,
) -> Path:  # fmt: skip
    """Writes clips ``c0``, ``c1``, ... with looks ``l0``, ``l1``, ..., and a jobs file; returns the jobs file."""
    scene = make_scene()
    for clip in range(clips):
        source = scene.source.copy()
        source[:, :3] = 20 * clip
        write_clip(root / f"c{clip}.mkv", Clip(source, Fraction(5)))
        for look in range(looks):
            edited = source[0].copy()
            edited[10:22, 8:20] = COLOURS[look]
            write_image(root / f"c{clip}-l{look}.png", edited)
    named = [f'[[clips]]\nname = "c{clip}"' for clip in range(clips)]
    named += [f'[[looks]]\nname = "l{look}"' for look in range(looks)]
    numbers = {"steps": steps, "sampling_steps": sampling_steps, "area": area}
    head = HEAD.format(folder=folder, seeds=list(seeds), model=model, **numbers)
    (root / name).write_text(head + "\n".join(named))
    return root / name


def events(job: Path) -> list[dict[str, Any]]:
    """Reads the log of a job's run folder."""
    return [json.loads(line) for line in (job / "run/log.jsonl").read_text().splitlines()]


def trainings(folder: Path) -> list[str]:
    """Returns the motion LoRAs that the jobs of a batch trained."""
    found = [event for job in folder.glob("jobs/*") for event in events(job) if event["event"] == "trained"]
    return [event["lora"] for event in found if event["lora"].startswith("motion")]


def endings(job: Path) -> int:
    """Counts how often a job ran to its end."""
    return sum(event.get("phase") == "compose" and event["event"] == "end" for event in events(job))


def products(job: Path) -> dict[str, str]:
    """Returns the hashes of a job's results: frames, LoRA, result, settings."""
    names = ("run/frames/*", "run/lora/*", "run/result.json", "run/settings.json", "edited.mp4", "run/metrics.json")
    files = sorted(path for name in names for path in job.glob(name))
    return {str(path.relative_to(job)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


class Plain:
    """Stands for a job that does nothing."""

    def __init__(self, name: str, group: str | None = None) -> None:
        self.name, self.group = name, group or name


def nothing(job: Plain, report: Report) -> dict[str, Any]:
    """Performs a job that does nothing."""
    report("progress", "nothing", 1, 1)
    return {"name": job.name, "pid": os.getpid()}


class Fragile:
    """Performs jobs whose worker dies at the first attempt at ``mortal``, and which always fails at ``faulty``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, job: Plain, report: Report) -> dict[str, Any]:
        """Performs a job."""
        if job.name == "faulty":
            raise OSError("the disk is full")
        if job.name == "mortal" and not (self.folder / "died").exists():
            (self.folder / "died").touch()
            os.kill(os.getpid(), 9)
        return nothing(job, report)


class Inline:
    """Implements a pool of one worker in this process."""

    def __init__(self, task: Any, *_: Any) -> None:
        self.task, self.job, self.order = task, None, []

    def idle(self, wanted: int) -> list[str]:
        return [] if self.job is not None or not wanted else ["here"]

    def start(self, _worker: str, job: Any) -> None:
        self.job = job
        self.order.append(job.name)

    def wait(self, _seconds: float) -> list[Event]:
        from loraedit.batch.local import attempt

        job, self.job = self.job, None
        reported: list[Event] = []

        def report(kind: Any, text: str, done: int, total: int) -> None:
            reported.append(Event("here", job.name, kind, text, done, total))

        fields = attempt(self.task, job, report)
        return [*reported, Event("here", job.name, **fields)]

    def close(self) -> None:
        pass


def resident_bytes() -> int:
    """Returns the resident memory of this process, in bytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def wait_until(ready: Any, seconds: float) -> None:
    """Waits until a condition is true."""
    end = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)
