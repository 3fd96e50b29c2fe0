"""Kills runs at random moments of every phase, continues them, and compares every byte with an undisturbed run.

    python -m scripts.chaos [--count KILLS] [--seed N] [--folder FOLDER]

Each run has its own store of LoRAs; some runs lose their run folder and continue from the store alone. A finished run
is a line in FOLDER/runs-N.jsonl and is not repeated.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from scripts.trial import write_inputs  # isort: skip (it brings the tests' helpers into reach)
from forked import Child, start

MOST_KILLS = 5
"""Most kills of one run."""
LATER_S = 0.03
"""Longest time in seconds between the event that a kill waits for and the kill."""
ANEW = 0.25
"""Share of runs that lose their run folder after the last kill."""
EDIT = [
    "edit", "source.mkv", "--first-frame=edited.png", "--mask=mask.mkv", "--reference=8=last.png", "--model=model",
    "--steps=6", "--sampling-steps=4", "--segment-frames=5", "--progress-json",
]  # fmt: skip
UNLIKE = ("log.jsonl",)
"""Files of a run folder that hold times, and so differ between runs."""
OF_TRAINING = ("checkpoints", "cache")
"""Folders that a run which finds its LoRA in the store does not fill completely."""


def edit(folder: Path, name: str) -> Child:
    """Starts or continues a run."""
    return start([*EDIT, f"--out={name}.mkv", f"--run={name}", f"--store={name}-store"], folder)


def phases(child: Child) -> list[str]:
    """Returns the phase of each event until the end.

    Raises:
        RuntimeError: the command failed.
    """
    lines = child.errors.read().decode().splitlines()
    code = child.wait()
    if code != 0:
        raise RuntimeError(f"exit code {code}: {lines[-1:]}")
    return [json.loads(line)["phase"] for line in lines if line.startswith("{")]


def kill_in(child: Child, phase: str, event: int, later_s: float) -> bool:
    """Kills a run a given time after an event of a phase; returns False if the run ended first.

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
    """Returns all files of a run, its output, and the LoRAs of its store."""
    run, store = folder / name, folder / f"{name}-store"
    kept = [path for path in run.rglob("*") if path.is_file() and path.name not in UNLIKE]
    loras = {f"store/{path.name}": path.read_bytes() for path in store.glob("*.safetensors")}
    losses = {
        f"store/{path.name}": str(json.loads(path.read_text())["losses"]).encode() for path in store.glob("*.json")
    }
    out = run.with_suffix(".mkv").read_bytes()
    return {**{str(path.relative_to(run)): path.read_bytes() for path in kept}, "out": out, **loras, **losses}


def torture(folder: Path, number: int, seed: int, events: Counter[str], most: int) -> dict[str, Any]:
    """Kills a run up to ``most`` times and then lets it end; returns its kills by phase, and the files that differ."""
    rng, name = np.random.default_rng((seed, number)), f"run{number}"
    remove(folder, name)
    kills: Counter[str] = Counter()
    for _ in range(int(rng.integers(1, most + 1))):
        phase = str(rng.choice(sorted(events)))
        event, later = int(rng.integers(events[phase])), float(rng.uniform(0, LATER_S))
        if not kill_in(edit(folder, name), phase, event, later):
            break
        kills[phase] += 1
    anew = bool(rng.random() < ANEW)
    if anew:
        shutil.rmtree(folder / name, ignore_errors=True)
    phases(edit(folder, name))
    whole, found = contents(folder, "whole"), contents(folder, name)
    paths = [path for path in sorted({*whole, *found}) if not (anew and path.split("/")[0] in OF_TRAINING)]
    wrong = [path for path in paths if whole.get(path) != found.get(path)]
    if not wrong:
        remove(folder, name)
    return {"run": number, "anew": anew, "kills": dict(kills), "wrong": wrong}


def remove(folder: Path, name: str) -> None:
    """Deletes a run and everything that belongs to it."""
    for place in (name, f"{name}-store"):
        shutil.rmtree(folder / place, ignore_errors=True)
    (folder / f"{name}.mkv").unlink(missing_ok=True)


def left_alone(folder: Path) -> Counter[str]:
    """Performs the undisturbed run once; returns the number of events of each phase."""
    kept = folder / "events.json"
    if not kept.exists():
        remove(folder, "whole")
        folder.mkdir(parents=True, exist_ok=True)
        write_inputs(folder, frames=9)
        kept.write_text(json.dumps(Counter(phases(edit(folder, "whole")))))
    return Counter(json.loads(kept.read_text()))


def argument_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200, help="number of kills (default: 200)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=Path("outputs/chaos"))
    return parser


def main() -> int:
    """Prints a table; returns 1 if a run ended differently than the undisturbed one."""
    options = argument_parser().parse_args()
    folder = options.folder.absolute()
    events = left_alone(folder)
    book = folder / f"runs-{options.seed}.jsonl"
    runs = [json.loads(line) for line in book.read_text().splitlines()] if book.exists() else []
    began, before = time.monotonic(), killed(runs).total()
    while (count := killed(runs).total()) < options.count:
        runs.append(torture(folder, len(runs), options.seed, events, min(MOST_KILLS, options.count - count)))
        with book.open("a") as file:
            file.write(json.dumps(runs[-1]) + "\n")
        done = killed(runs).total()
        left = (time.monotonic() - began) / max(1, done - before) * (options.count - done)
        sys.stderr.write(f"\r{done}/{options.count} kills, {left / 60:.0f} min left ")
    return tell(events, runs)


def killed(runs: list[dict[str, Any]]) -> Counter[str]:
    """Counts kills by phase."""
    return sum((Counter(run["kills"]) for run in runs), Counter())


def tell(events: Counter[str], runs: list[dict[str, Any]]) -> int:
    """Prints the table; returns 1 if a file differs from the undisturbed run."""
    kills, wrong = killed(runs), [f"run{run['run']}: {path}" for run in runs for path in run["wrong"]]
    print(f"\n{'phase':12}{'events':>8}{'kills':>8}")
    for phase in events:
        print(f"{phase:12}{events[phase]:>8}{kills[phase]:>8}")
    anew = sum(run["anew"] for run in runs)
    print(f"{len(runs)} runs, {kills.total()} kills; after the last kill {anew} runs continued from the store alone.")
    print(f"{len(wrong)} files differ from the undisturbed run.")
    print("\n".join(wrong))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
