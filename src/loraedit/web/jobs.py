"""Jobs: a list of command lines in a folder, and all that is known of them in files there.

    job.json     what to do, written once          N.out, N.err   what command N printed
    codes.json   exit codes of the commands ended  lock           held by whoever works on the job
    stop         the person wants it stopped       pid            of the command under way

A command inherits the lock, so it stays held if the server is killed and the command lives on: a server that comes
back finds such a job at work, waits for it, and goes on after it. All commands can be run again at any time; they
continue where they stopped.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from loraedit.storage.files import read_json, write_json
from loraedit.storage.locks import take_lock

__all__ = ["Job", "Lock", "State"]

State = Literal["waiting", "running", "stopping", "stopped", "failed", "done"]


class Lock:
    """An exclusive lock on a file; whoever inherits its descriptor holds it too."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    @classmethod
    def take(cls, path: Path) -> Lock | None:
        """The lock, or None if somebody has it."""
        descriptor = take_lock(path, 0o600)
        return None if descriptor is None else cls(descriptor)

    def let_go(self) -> None:
        """Close ours; an heir keeps its own."""
        os.close(self.descriptor)


@dataclass(frozen=True)
class Job:
    """A job, known by its folder, ``FOLDER/PERSON/masks/KEY`` or ``FOLDER/PERSON/runs/ID``."""

    folder: Path

    @classmethod
    def make(cls, folder: Path, commands: Sequence[Sequence[str]], **about: Any) -> Job:
        """A new job in a folder, or the one that is there."""
        job = cls(folder)
        if not job.exists():
            folder.mkdir(parents=True, exist_ok=True)
            write_json(folder / "job.json", {"commands": [list(command) for command in commands], **about})
        return job

    @property
    def name(self) -> str:
        """Unique among this person's jobs of a kind."""
        return self.folder.name

    @property
    def home(self) -> Path:
        """The person's folder, in which the commands run."""
        return self.folder.parent.parent

    def exists(self) -> bool:
        """Whether it was made, and not removed."""
        return (self.folder / "job.json").is_file()

    def record(self) -> dict[str, Any]:
        """What ``job.json`` holds."""
        record: dict[str, Any] = read_json(self.folder / "job.json")
        return record

    def commands(self) -> list[list[str]]:
        """The command lines, without the program."""
        commands: list[list[str]] = self.record()["commands"]
        return commands

    def codes(self) -> list[int]:
        """Exit codes of the commands that have ended on their own."""
        try:
            codes: list[int] = read_json(self.folder / "codes.json")
        except (OSError, ValueError):
            return []
        return codes

    def add_code(self, code: int) -> None:
        """The next command has ended."""
        write_json(self.folder / "codes.json", [*self.codes(), code])

    def fail(self, sentence: str) -> None:
        """End it, since its next command cannot even begin."""
        with (self.folder / f"{len(self.codes())}.err").open("a") as file:
            file.write(f"loraedit: {sentence}\n")
        self.add_code(1)

    def state(self) -> State:
        """How it stands."""
        codes = self.codes()
        if any(codes):
            return "failed"
        if len(codes) == len(self.commands()):
            return "done"
        held, stop = self.is_held(), self.wants_stop()
        if held:
            return "stopping" if stop else "running"
        return "stopped" if stop else "waiting"

    def is_held(self) -> bool:
        """Whether somebody works on it."""
        lock = Lock.take(self.folder / "lock")
        if lock is not None:
            lock.let_go()
        return lock is None

    def wants_stop(self) -> bool:
        """Whether the person has asked to stop it."""
        return (self.folder / "stop").exists()

    def stop(self) -> None:
        """Ask to stop it."""
        (self.folder / "stop").touch()

    def resume(self) -> None:
        """Let it go on after a stop or a failure."""
        write_json(self.folder / "codes.json", [code for code in self.codes() if code == 0])
        (self.folder / "stop").unlink(missing_ok=True)

    def remove(self) -> None:
        """Delete it with all that it made."""
        (self.folder / "job.json").unlink()
        shutil.rmtree(self.folder)

    # ---- the command under way -----------------------------------------------------------------------------------

    def set_pid(self, pid: int) -> None:
        """Remember it for a server that comes after this one."""
        write_json(self.folder / "pid", pid)

    def interrupt(self, how: signal.Signals) -> None:
        """Signal the command and all its children; nothing if there is none."""
        with contextlib.suppress(OSError, ValueError):
            os.killpg(int((self.folder / "pid").read_text()), how)

    def printed(self, index: int) -> dict[str, Any] | None:
        """The JSON object that a command printed at its end, if it did."""
        try:
            value = read_json(self.folder / f"{index}.out")
        except (OSError, ValueError):
            return None
        return value if isinstance(value, dict) else None

    def said(self) -> list[str]:
        """What the last command that was begun wrote on standard error, by line."""
        files = [self.folder / f"{index}.err" for index in range(len(self.commands()))]
        latest = [file for file in files if file.is_file()][-1:]
        return latest[0].read_text(errors="replace").splitlines() if latest else []
