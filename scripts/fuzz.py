"""Gives the command line thousands of damaged, hostile and unusual inputs, and checks how it responds.

    python -m scripts.fuzz [--count CASES] [--seed N] [--jobs N] [--folder FOLDER] [--only CASE]

Each case must end with exit code 0 or 2, without a traceback, within 20 seconds and 2 GB, and leave no partial files.
After a refusal nothing may be new, except the run folder of an edit that had begun. A finished case is a line in
FOLDER/cases-N.jsonl and is not repeated, unless it failed; the files of failed cases stay in FOLDER/failed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import select
import shutil
import stat
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Lock
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from scripts import trial  # isort: skip (it brings the tests' helpers into reach)
from forked import SERVER, Child, start
from fuzz_cases import make_case
from fuzz_kit import make_kit

MOST_S = 20.0
"""Most seconds of a case, without the time it waits for a core."""
MOST_KB = 2 * 1024**2
"""Most memory of a process, in kilobytes."""
PRELOADED = [
    "loraedit.cli.main", "loraedit.batch.jobs", "loraedit.editing", "loraedit.evaluate", "loraedit.lora.export",
    "loraedit.families.inventory", "loraedit.families.wan", "loraedit.mask_maker.make", "loraedit.planning",
    "loraedit.editing.repeat",
]  # fmt: skip
"""Modules that every case finds imported."""
GLANCE_S = 0.02
"""Seconds between two checks of a process."""


_ONE_AT_A_TIME = Lock()
"""Serialises process starts: starting a process reaps others, and could take the exit code another thread waits for."""


@dataclass(frozen=True)
class Outcome:
    """Holds the outcome of a case.

    Attributes:
        fault: what went wrong; empty if nothing did.
        said: the last line on standard error.
    """

    number: int
    kind: str
    arguments: list[str]
    code: int
    seconds: float
    megabytes: int
    fault: str
    said: str


def watch(child: Child) -> tuple[str, float, int, str]:
    """Returns a process's standard error, its seconds, its memory in kilobytes, and why it was killed (or nothing)."""
    said, fault, most, spent, began = bytearray(), "", 0, 0.0, time.monotonic()
    while True:
        ready, _, _ = select.select([child.errors], [], [], GLANCE_S)
        part = os.read(child.errors.fileno(), 1 << 16) if ready else None
        if part == b"":
            return said.decode(errors="replace"), spent, most, fault
        said += part or b""
        most, spent = max(most, _memory(child)), max(spent, time.monotonic() - began - _queued(child))
        if not fault and (most > MOST_KB or spent > MOST_S):
            fault = "memory" if most > MOST_KB else "hang"
            child.process.kill()


def _memory(child: Child) -> int:
    """Returns the peak memory of a process so far, in kilobytes; 0 if it has ended."""
    try:
        found = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{child.process.pid}/status").read_text())
    except OSError:
        return 0
    return int(found[1]) if found else 0


def _queued(child: Child) -> float:
    """Returns the seconds for which a process was ready to run but had no core."""
    try:
        return int(Path(f"/proc/{child.process.pid}/schedstat").read_text().split()[1]) / 1e9
    except (OSError, IndexError):
        return 0.0


def contents(folder: Path) -> dict[str, str]:
    """Returns the contents of a folder: by path a hash, or the kind of entry."""
    found = {}
    for path in sorted(folder.rglob("*")):
        mode = path.lstat().st_mode
        plain = stat.S_ISREG(mode)
        found[str(path.relative_to(folder))] = hashlib.sha256(path.read_bytes()).hexdigest() if plain else oct(mode)
    return found


def left_over(before: dict[str, str], after: dict[str, str], code: int) -> list[str]:
    """Returns the files that a case should not have left."""
    new = [path for path, value in after.items() if before.get(path) != value]
    gone = [path for path in before if path not in after]
    partial = [path for path in new if ".partial" in path or path.endswith(".old")]
    begun = {path.split("/")[0] for path in after if path.endswith(("-run/settings.json", "again/settings.json"))}
    if code == 0:
        return partial
    return partial + gone + [path for path in new if path.split("/")[0] not in begun]


def carry_out(number: int, options: argparse.Namespace, kit: Path) -> Outcome:
    """Runs one case in its own folder."""
    folder = (options.folder / "cases" / str(number)).absolute()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    case = make_case(number, options.seed, kit, folder)
    before = contents(folder)
    with _ONE_AT_A_TIME:
        child = start(case.arguments, folder)
    said, seconds, most, fault = watch(child)
    with _ONE_AT_A_TIME:
        code = child.wait()
    if not fault and "Traceback" in said:
        fault = "traceback"
    if not fault and code not in (0, 2):
        fault = f"exit code {code}"
    if not fault and code == 2 and "loraedit:" not in said and "Error" not in said and "Usage" not in said:
        fault = "no sentence"
    rest = left_over(before, contents(folder), code)
    if not fault and rest:
        fault = f"left over: {', '.join(rest[:3])}"
    if fault:
        failed = options.folder / "failed" / str(number)
        shutil.rmtree(failed, ignore_errors=True)
        failed.parent.mkdir(exist_ok=True)
        folder.rename(failed)
        (failed / "said.txt").write_text(said)
    else:
        shutil.rmtree(folder)
    last = said.strip().splitlines()[-1:] or [""]
    return Outcome(number, case.kind, case.arguments, code, round(seconds, 2), most // 1024, fault, last[0][-300:])


def argument_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=5000, help="number of cases (default: 5000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--folder", type=Path, default=Path("outputs/fuzz"))
    parser.add_argument("--only", type=int, nargs="*", help="run these cases, even if they are finished")
    return parser


def main() -> int:
    """Prints a table; returns 1 if a case went wrong."""
    options = argument_parser().parse_args()
    SERVER.set_forkserver_preload(PRELOADED)
    kit = options.folder.absolute() / f"kit-{options.seed}"
    if not (kit / "done").exists():
        shutil.rmtree(kit, ignore_errors=True)
        make_kit(kit, trial.write_model(options.folder.absolute() / "model"))
        (kit / "done").touch()
    book = options.folder / f"cases-{options.seed}.jsonl"
    lines = book.read_text().splitlines() if book.exists() else []
    done = {each["number"]: each for each in map(json.loads, lines)}  # the last line of each case counts
    known = {number for number, each in done.items() if not each["fault"]}
    todo = options.only or [number for number in range(options.count) if number not in known]
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
    with ThreadPoolExecutor(options.jobs) as pool, Progress(*columns) as progress, book.open("a") as file:
        task = progress.add_task("", total=len(todo) + len(known), completed=len(known))
        for outcome in pool.map(lambda number: carry_out(number, options, kit), todo):
            done[outcome.number] = asdict(outcome)
            file.write(json.dumps(done[outcome.number]) + "\n")
            file.flush()
            progress.advance(task)
            if outcome.fault:
                line = f"{outcome.number} {outcome.kind}: {outcome.fault}: {outcome.said}"
                progress.console.print(line, markup=False)
    return tell(list(done.values()))


def tell(done: list[dict[str, Any]]) -> int:
    """Prints the table of all cases; returns 1 if one went wrong."""
    kinds = sorted({each["kind"] for each in done})
    print(f"{'kind':14}{'cases':>8}{'done':>8}{'refused':>9}{'faults':>8}{'slowest s':>11}{'largest MB':>12}")
    for kind in [*kinds, "all"]:
        cases = [each for each in done if kind in (each["kind"], "all")]
        codes = Counter(each["code"] for each in cases)
        faults = sum(bool(each["fault"]) for each in cases)
        slowest, largest = max(each["seconds"] for each in cases), max(each["megabytes"] for each in cases)
        print(f"{kind:14}{len(cases):>8}{codes[0]:>8}{codes[2]:>9}{faults:>8}{slowest:>11.1f}{largest:>12}")
    return 1 if any(each["fault"] for each in done) else 0


if __name__ == "__main__":
    sys.exit(main())
