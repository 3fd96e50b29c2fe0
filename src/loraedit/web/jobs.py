"""Jobs: lists of command lines.

The folder of a job holds its state:

    job.json     the commands                      N.out, N.err   the output of command N
    codes.json   exit codes of ended commands      lock           held while the job runs
    stop         exists if the job shall stop      pid            the process of the running command

A command inherits the lock, which stays held if the server is killed and the command survives. The next server then
finds that the job is running, waits for the command, and continues with the next one. Every command can be repeated;
it continues where it stopped.
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
    """An exclusive lock on a file. A process that inherits its descriptor holds it too."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    @classmethod
    def take(cls, path: Path) -> Lock | None:
        """Takes the lock; returns None if another process holds it."""
        descriptor = take_lock(path, 0o600)
        return None if descriptor is None else cls(descriptor)

    def release(self) -> None:
        """Releases the lock, unless a process has inherited it."""
        os.close(self.descriptor)


@dataclass(frozen=True)
class Job:
    """A job; its folder is ``FOLDER/USER/masks/KEY``, ``FOLDER/USER/plans/KEY`` or ``FOLDER/USER/runs/ID``."""

    folder: Path

    @classmethod
    def make(cls, folder: Path, commands: Sequence[Sequence[str]], **about: Any) -> Job:
        """Returns the job in a folder; creates it if there is none."""
        job = cls(folder)
        if not job.exists():
            folder.mkdir(parents=True, exist_ok=True)
            write_json(folder / "job.json", {"commands": [list(command) for command in commands], **about})
        return job

    @property
    def name(self) -> str:
        """Returns its name, unique among the user's jobs of a kind."""
        return self.folder.name

    @property
    def home(self) -> Path:
        """Returns the user's folder, in which the commands run."""
        return self.folder.parent.parent

    def exists(self) -> bool:
        """Returns whether it was created and not removed."""
        return (self.folder / "job.json").is_file()

    def record(self) -> dict[str, Any]:
        """Returns the content of ``job.json``."""
        record: dict[str, Any] = read_json(self.folder / "job.json")
        return record

    def commands(self) -> list[list[str]]:
        """Returns the command lines without the program."""
        commands: list[list[str]] = self.record()["commands"]
        return commands

    def codes(self) -> list[int]:
        """Returns the exit codes of the commands that ended by themselves."""
        try:
            codes: list[int] = read_json(self.folder / "codes.json")
        except (OSError, ValueError):
            return []
        return codes

    def add_code(self, code: int) -> None:
        """Adds the exit code of the next command."""
        write_json(self.folder / "codes.json", [*self.codes(), code])

    def fail(self, message: str) -> None:
        """Ends it with an error when its next command cannot start."""
        with (self.folder / f"{len(self.codes())}.err").open("a") as file:
            file.write(f"loraedit: {message}\n")
        self.add_code(1)

    def state(self) -> State:
        """Returns its state."""
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
        """Returns whether a process works on it."""
        lock = Lock.take(self.folder / "lock")
        if lock is not None:
            lock.release()
        return lock is None

    def wants_stop(self) -> bool:
        """Returns whether it shall stop."""
        return (self.folder / "stop").exists()

    def stop(self) -> None:
        """Requests that it stops."""
        (self.folder / "stop").touch()

    def resume(self) -> None:
        """Clears a stop or a failure, so that it can continue."""
        write_json(self.folder / "codes.json", [code for code in self.codes() if code == 0])
        (self.folder / "stop").unlink(missing_ok=True)

    def remove(self) -> None:
        """Deletes it with all its files."""
        (self.folder / "job.json").unlink()
        shutil.rmtree(self.folder)

    # ---- the running command -------------------------------------------------------------------------------------

    def set_pid(self, pid: int) -> None:
        """Saves the process id, for this server and the next."""
        write_json(self.folder / "pid", pid)

    def interrupt(self, which: signal.Signals) -> None:
        """Sends a signal to the command and its children, if there are any."""
        with contextlib.suppress(OSError, ValueError):
            os.killpg(int((self.folder / "pid").read_text()), which)

    def printed(self, index: int) -> dict[str, Any] | None:
        """Returns the JSON object that a command printed at its end; None if it printed none."""
        try:
            value = read_json(self.folder / f"{index}.out")
        except (OSError, ValueError):
            return None
        return value if isinstance(value, dict) else None

    def error_lines(self) -> list[str]:
        """Returns the lines that the latest command wrote to standard error."""
        files = [self.folder / f"{index}.err" for index in range(len(self.commands()))]
        latest = [file for file in files if file.is_file()][-1:]
        return latest[0].read_text(errors="replace").splitlines() if latest else []
