"""Lanes: each carries out its jobs one after the other, whoever they are of, as child processes of the command line."""

from __future__ import annotations

import signal
import subprocess
import threading
import time
from pathlib import Path

from loraedit.web.commands import child_command, child_environment
from loraedit.web.jobs import Job, Lock

__all__ = ["Lane"]

PAUSE_S = 0.1
PATIENCE_S = ((0.0, signal.SIGINT), (10.0, signal.SIGTERM), (20.0, signal.SIGKILL))
"""How long a command is given to end before the next signal."""


class Lane(threading.Thread):
    """A queue and who works on it; what an earlier server left is taken up again.

    Args:
        root: the folder of all people's folders.
        kind: ``masks`` or ``runs``.
    """

    def __init__(self, root: Path, kind: str) -> None:
        super().__init__(name=f"lane-{kind}", daemon=True)
        self._news = threading.Condition()
        found = [Job(path.parent) for path in root.glob(f"*/{kind}/*/job.json")]
        under_way = [job for job in found if job.state() in ("running", "stopping", "waiting")]
        self._queue = sorted(under_way, key=lambda job: (not job.is_held(), job.record()["created"]))
        self._closing = threading.Event()

    def submit(self, job: Job) -> None:
        """Queue a job, unless it is queued already or has ended."""
        with self._news:
            if job.state() == "waiting" and job not in self._queue:
                self._queue.append(job)
                self._news.notify()

    def ahead_of(self, job: Job) -> int:
        """How many jobs come before this one."""
        with self._news:
            return self._queue.index(job) if job in self._queue else 0

    def close(self) -> None:
        """Stop what is under way, to be continued by the next server, and wait until it has ended."""
        self._closing.set()
        with self._news:
            self._news.notify()
        self.join()

    def run(self) -> None:
        """Work until closed; the job at hand stays first in the queue until it has ended."""
        while not self._closing.is_set():
            with self._news:
                if not self._queue:
                    self._news.wait(1)
                    continue
                job = self._queue[0]
            try:
                if job.exists():
                    self._carry_out(job)
            except OSError as error:  # a full disk, or no process to be had
                job.fail(f"{error}. Mend it and continue.")
            finally:
                with self._news:
                    self._queue.remove(job)
            if job.exists():
                self.submit(job)  # it was continued just as it stopped

    def _carry_out(self, job: Job) -> None:
        lock = self._lock(job)
        if lock is None:
            return
        try:
            commands = job.commands()
            for index in range(len(job.codes()), len(commands)):
                if job.wants_stop() or self._closing.is_set():
                    return
                code = self._run(job, index, commands[index], lock)
                if code and (job.wants_stop() or self._closing.is_set()):
                    return  # it was interrupted, and has not failed
                job.add_code(code)
                if code:
                    return
        finally:
            lock.let_go()

    def _lock(self, job: Job) -> Lock | None:
        """The job's lock, once a command that outlived its server has ended; None if this server ends before."""
        patience = _Patience(job)
        while (lock := Lock.take(job.folder / "lock")) is None:
            if self._closing.wait(PAUSE_S):
                return None
            if job.wants_stop():
                patience.spend()
        return lock

    def _run(self, job: Job, index: int, command: list[str], lock: Lock) -> int:
        """One command; its exit code."""
        with (job.folder / f"{index}.out").open("wb") as out, (job.folder / f"{index}.err").open("wb") as err:
            process = subprocess.Popen(
                child_command(command), cwd=job.home, env=child_environment(), stdin=subprocess.DEVNULL, stdout=out,
                stderr=err, start_new_session=True, pass_fds=[lock.descriptor],
            )  # fmt: skip
        job.set_pid(process.pid)
        patience = _Patience(job)
        while True:
            try:
                return process.wait(PAUSE_S)
            except subprocess.TimeoutExpired:
                if job.wants_stop() or self._closing.is_set():
                    patience.spend()


class _Patience:
    """Ends a command, first kindly."""

    def __init__(self, job: Job) -> None:
        self._job, self._since, self._sent = job, 0.0, 0

    def spend(self) -> None:
        """Call it again and again; each signal is sent once, when its time has come."""
        now = time.monotonic()
        self._since = self._since or now
        if self._sent < len(PATIENCE_S) and now - self._since >= PATIENCE_S[self._sent][0]:
            self._job.interrupt(PATIENCE_S[self._sent][1])
            self._sent += 1
