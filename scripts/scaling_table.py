"""Writes the scaling estimate in docs/batches-and-clusters.md, from a plan and the scheduler's own order of jobs.

python -m scripts.scaling_table
"""

from __future__ import annotations

import heapq
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks.tables import put_section
from loraedit.batch.schedule import Queue

PAGE = Path("docs/batches-and-clusters.md")
MODEL, SIZE, FRAMES, VRAM, CARD = "wan2.1-i2v-14b-480p", "832x480", 49, "80GB", "H100"
CLIPS, LOOKS = 40, 3
GPUS = (1, 2, 4, 8, 16, 32, 64)


@dataclass(frozen=True)
class Job:
    name: str
    group: str


def plan() -> tuple[float, float]:
    """Returns the seconds of an edit on the GPU, and of the training in it."""
    command = [sys.executable, "-m", "loraedit", "plan", "--model", MODEL, "--size", SIZE, "--frames", str(FRAMES)]
    found = json.loads(subprocess.run([*command, "--vram", VRAM, "--json"], check=True, stdout=subprocess.PIPE).stdout)
    seconds = next(card["seconds"] for card in found["gpus"] if CARD in card["name"])
    return seconds, seconds * found["train_steps"] * found["train_step_flops"] / found["total_flops"]


def duration(gpus: int, edit: float, training: float) -> float:
    """Returns the seconds of the whole batch if every job takes its planned time; the queue is that of a real batch."""
    queue = Queue([Job(f"{clip}-{look}", str(clip)) for clip in range(CLIPS) for look in range(LOOKS)], 0)
    now, free, seen = 0.0, gpus, set()
    coming: list[tuple[float, int, str, Job]] = []
    count = 0
    while queue.left:
        while free and (job := queue.next()) is not None:
            assert isinstance(job, Job)
            first = job.group not in seen
            seen.add(job.group)
            for at, what in ((training, "trained"), (edit, "done")) if first else ((edit - training, "done"),):
                heapq.heappush(coming, (now + at, count := count + 1, what, job))
            free -= 1
        now, _, what, job = heapq.heappop(coming)
        if what == "done":
            queue.done(job)
            free += 1
        else:
            queue.trained(job)
    return now


def table() -> str:
    edit, training = plan()
    lines = [
        f"{CLIPS} clips of {FRAMES} frames ({SIZE}) with {LOOKS} looks each, {MODEL} on {CARD}s. The first edit of a",
        f"clip takes {edit / 60:.0f} minutes, of which {training / 60:.0f} are training. Its other looks need none.",
        "",
        "| GPUs | time | speed-up | GPU hours |",
        "|---:|---:|---:|---:|",
    ]
    alone = duration(1, edit, training)
    for gpus in GPUS:
        seconds = duration(gpus, edit, training)
        paid = gpus * seconds / 3600
        lines.append(f"| {gpus} | {seconds / 3600:.1f} h | {alone / seconds:.1f} | {paid:.0f} |")
    return "\n".join(lines)


def main() -> None:
    put_section(PAGE, "scaling", table())


if __name__ == "__main__":
    main()
