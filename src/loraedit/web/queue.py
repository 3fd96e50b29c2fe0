"""Queues: each runs the jobs of all users one after the other, as child processes that run the command line."""

from __future__ import annotations

import signal
import subprocess
import threading
import time
from pathlib import Path

from loraedit.web.commands import child_command, child_environment
from loraedit.web.jobs import Job, Lock

__all__ = ["JobQueue", "Queues"]

PAUSE_S = 0.1
STOP_SIGNALS = ((0.0, signal.SIGINT), (10.0, signal.SIGTERM), (20.0, signal.SIGKILL))
"""The signals that stop a command, and the time after which each is sent."""


class JobQueue(threading.Thread):
    """A queue and the thread that works on it. It starts with the jobs that an earlier server left.

    Args:
        root: the folder of all users' folders.
        kind: ``masks``, ``plans`` or ``runs``.
    """

    def __init__(self, root: Path, kind: str) -> None:
        super().__init__(name=f"queue-{kind}", daemon=True)
        self._changed = threading.Condition()
        found = [Job(path.parent) for path in root.glob(f"*/{kind}/*/job.json")]
        unfinished = [job for job in found if job.state() in ("running", "stopping", "waiting")]
        self._queue = sorted(unfinished, key=lambda job: (not job.is_held(), job.record()["created"]))
        self._closing = threading.Event()

    def submit(self, job: Job) -> None:
        """Adds a job, unless it is queued already or has ended."""
        with self._changed:
            if job.state() == "waiting" and job not in self._queue:
                self._queue.append(job)
                self._changed.notify()

    def ahead_of(self, job: Job) -> int:
        """Returns how many jobs come before this one."""
        with self._changed:
            return self._queue.index(job) if job in self._queue else 0

    def close(self) -> None:
        """Stops the running job and waits until it has ended; the next server continues it."""
        self._closing.set()
        with self._changed:
            self._changed.notify()
        self.join()

    def run(self) -> None:
        """Works until closed; the running job stays first in the queue until it has ended."""
        while not self._closing.is_set():
            with self._changed:
                if not self._queue:
                    self._changed.wait(1)
                    continue
                job = self._queue[0]
            try:
                if job.exists():
                    self._work_on(job)
            except OSError as error:  # the disk is full, or no process can be started
                job.fail(f"{error}. Fix this and continue the run.")
            finally:
                with self._changed:
                    self._queue.remove(job)
            if job.exists():
                self.submit(job)  # it may have been resumed while it stopped

    def _work_on(self, job: Job) -> None:
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
                    return  # it was interrupted and has not failed
                job.add_code(code)
                if code:
                    return
        finally:
            lock.release()

    def _lock(self, job: Job) -> Lock | None:
        """Waits for a command that survived its server, and takes the job's lock; returns None if this server ends."""
        stopper = _Stopper(job)
        while (lock := Lock.take(job.folder / "lock")) is None:
            if self._closing.wait(PAUSE_S):
                return None
            if job.wants_stop():
                stopper.send_due()
        return lock

    def _run(self, job: Job, index: int, command: list[str], lock: Lock) -> int:
        """Runs one command; returns its exit code."""
        with (job.folder / f"{index}.out").open("wb") as out, (job.folder / f"{index}.err").open("wb") as err:
            process = subprocess.Popen(
                child_command(command), cwd=job.home, env=child_environment(), stdin=subprocess.DEVNULL, stdout=out,
                stderr=err, start_new_session=True, pass_fds=[lock.descriptor],
            )  # fmt: skip
        job.set_pid(process.pid)
        stopper = _Stopper(job)
        while True:
            try:
                return process.wait(PAUSE_S)
            except subprocess.TimeoutExpired:
                if job.wants_stop() or self._closing.is_set():
                    stopper.send_due()


class Queues:
    """The queues of the three kinds of jobs; they work side by side.

    Args:
        root: the folder of all users' folders.
    """

    def __init__(self, root: Path) -> None:
        self.masks, self.plans, self.runs = (JobQueue(root, kind) for kind in ("masks", "plans", "runs"))

    def start(self) -> None:
        """Starts all queues."""
        for queue in (self.masks, self.plans, self.runs):
            queue.start()

    def close(self) -> None:
        """Closes all queues."""
        for queue in (self.masks, self.plans, self.runs):
            queue.close()


class _Stopper:
    """Stops a command, at first gently."""

    def __init__(self, job: Job) -> None:
        self._job, self._since, self._sent = job, 0.0, 0

    def send_due(self) -> None:
        """Sends the signals that are due; call it repeatedly."""
        now = time.monotonic()
        self._since = self._since or now
        if self._sent < len(STOP_SIGNALS) and now - self._since >= STOP_SIGNALS[self._sent][0]:
            self._job.interrupt(STOP_SIGNALS[self._sent][1])
            self._sent += 1
