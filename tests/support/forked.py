"""Runs the command line in forks of a process that has imported everything; they start fast and can be killed."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import BinaryIO

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(
    ["loraedit.cli.main", "loraedit.editing", "loraedit.families.wan", "loraedit.job.prepare"]
)


@dataclass(frozen=True)
class Child:
    """Holds a running command."""

    process: multiprocessing.context.ForkServerProcess
    errors: BinaryIO
    """Its standard error."""

    def wait(self) -> int:
        """Waits for the end; returns the exit code, or minus the signal that ended the process."""
        self.process.join()
        self.errors.close()
        assert self.process.exitcode is not None
        return self.process.exitcode


def start(arguments: Sequence[str | Path], folder: Path, output: Path | None = None) -> Child:
    """Starts ``loraedit ARGUMENTS`` in a folder, in its own process; its standard output goes to a file, or nowhere."""
    reader, writer = SERVER.Pipe(duplex=False)
    line = [str(each) for each in arguments]
    process = SERVER.Process(target=_be_command_line, args=(line, folder, str(output or os.devnull), writer))
    process.start()
    writer.close()
    return Child(process, os.fdopen(os.dup(reader.fileno()), "rb"))


def run(arguments: Sequence[str | Path], folder: Path = Path()) -> subprocess.CompletedProcess[str]:
    """Runs ``loraedit ARGUMENTS`` in its own process; returns its output and exit code."""
    with tempfile.TemporaryDirectory() as place:
        output = Path(place) / "output"
        child = start(arguments, folder.absolute(), output)
        errors, code = child.errors.read().decode(), child.wait()
        return subprocess.CompletedProcess(list(arguments), code, output.read_text(), errors)


def kill_when(command: list[str], run: Path, pattern: str) -> bool:
    """Starts a run and kills it (SIGKILL) once a file matches the pattern; returns False if it ended before."""
    child = start(command, run.parent)
    while child.process.is_alive() and not list(run.glob(pattern)):
        time.sleep(0.002)
    child.process.kill()
    return child.wait() == -signal.SIGKILL


def contents(folder: Path) -> dict[str, bytes]:
    """Returns the files of a run by path, without the log, which holds times."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "log.jsonl"
    }


def _be_command_line(arguments: list[str], folder: Path, output: str, errors: Connection) -> None:
    """Runs the command line in this process and exits."""
    code = 1
    try:
        os.dup2(os.open(output, os.O_WRONLY | os.O_CREAT), 1)
        os.dup2(errors.fileno(), 2)
        errors.close()
        os.chdir(folder)
        sys.argv = ["loraedit", *arguments]
        from loraedit.cli.main import main

        main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
