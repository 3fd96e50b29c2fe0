"""Kill runs at random moments of every phase, go on, and compare with a run that was left alone, to the byte.

python -m scripts.chaos [--count KILLS] [--seed N]
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np

from scripts.trial import write_inputs  # isort: skip (it brings the tests' helpers into reach)
from forked import Child, start

MOST_KILLS = 5
"""Of one run."""
LATER_S = 0.03
"""The longest time between the event that a kill waits for and the kill."""
EDIT = [
    "edit", "source.mkv", "--first-frame=edited.png", "--mask=mask.mkv", "--reference=8=last.png", "--model=model",
    "--steps=6", "--sampling-steps=4", "--segment-frames=5", "--progress-json",
]  # fmt: skip
UNLIKE = ("log.jsonl",)
"""Files of a run folder that hold times."""


def edit(folder: Path, name: str) -> Child:
    """Begin or continue a run."""
    return start([*EDIT, f"--out={name}.mkv", f"--run={name}"], folder)


def phases(child: Child) -> list[str]:
    """The phase of each event until the end.

    Raises:
        RuntimeError: the command failed.
    """
    lines = child.errors.read().decode().splitlines()
    code = child.wait()
    if code != 0:
        raise RuntimeError(f"exit code {code}: {lines[-1:]}")
    return [json.loads(line)["phase"] for line in lines if line.startswith("{")]


def kill_in(child: Child, phase: str, event: int, later_s: float) -> bool:
    """Kill a run so long after an event of a phase; whether it came to that.

    Raises:
        RuntimeError: the command failed.
    """
    seen = 0
    for line in child.errors:
        seen += line.startswith(b"{") and json.loads(line)["phase"] == phase
        if seen > event:
            time.sleep(later_s)
            child.process.kill()
            break
    code = child.wait()
    if code not in (0, -signal.SIGKILL):
        raise RuntimeError(f"exit code {code}")
    return code != 0


def contents(folder: Path, name: str) -> dict[str, bytes]:
    """All files of a run, and its output."""
    run = folder / name
    kept = [path for path in run.rglob("*") if path.is_file() and path.name not in UNLIKE]
    out = run.with_suffix(".mkv").read_bytes()
    return {**{str(path.relative_to(run)): path.read_bytes() for path in kept}, "out": out}


def torture(folder: Path, name: str, events: Counter[str], rng: np.random.Generator, most: int) -> Counter[str]:
    """One run, killed up to so many times and then left to end; kills by phase."""
    kills: Counter[str] = Counter()
    for _ in range(int(rng.integers(1, most + 1))):
        phase = str(rng.choice(sorted(events)))
        event, later = int(rng.integers(events[phase])), float(rng.uniform(0, LATER_S))
        if not kill_in(edit(folder, name), phase, event, later):
            break
        kills[phase] += 1
    phases(edit(folder, name))
    return kills


def main() -> int:
    """Print a table; 1 if a run ended otherwise than it should."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200, help="kills in all (default: 200)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    kills: Counter[str] = Counter()
    runs, wrong = 0, []
    with tempfile.TemporaryDirectory(prefix="loraedit-chaos-") as temporary:
        folder = Path(temporary)
        write_inputs(folder, frames=9)
        events = Counter(phases(edit(folder, "whole")))
        whole = contents(folder, "whole")
        while kills.total() < options.count:
            rng, name = np.random.default_rng((options.seed, runs)), f"run{runs}"
            kills += torture(folder, name, events, rng, min(MOST_KILLS, options.count - kills.total()))
            found = contents(folder, name)
            wrong += [f"{name}: {path}" for path in sorted({*whole, *found}) if whole.get(path) != found.get(path)]
            runs += 1
            shutil.rmtree(folder / name)
            (folder / f"{name}.mkv").unlink()
            sys.stderr.write(f"\r{kills.total()}/{options.count} kills")
    print(f"\n{'phase':12}{'events':>8}{'kills':>8}")
    for phase in events:
        print(f"{phase:12}{events[phase]:>8}{kills[phase]:>8}")
    print(f"{runs} runs, {kills.total()} kills, {len(wrong)} files that differ from the uninterrupted run")
    print("\n".join(wrong))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
