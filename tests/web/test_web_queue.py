"""Jobs, their queue and their progress, without a server."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from loraedit.web.jobs import Job, Lock
from loraedit.web.progress import error_of, progress_of
from loraedit.web.queue import JobQueue


def start_queue(root: Path) -> JobQueue:
    queue = JobQueue(root, "runs")
    queue.start()
    return queue


def wait_for(job: Job, *states: str) -> None:
    deadline = time.monotonic() + 60
    while job.state() not in states:
        assert time.monotonic() < deadline, (job.state(), job.error_lines())
        time.sleep(0.05)


def test_a_job_that_fails_says_why_and_can_be_continued(tmp_path: Path) -> None:
    job = Job.make(tmp_path / "a/runs/1", [["plan", "--json"]], created=1.0)
    queue = start_queue(tmp_path)
    wait_for(job, "failed")
    assert "Give a clip and --first-frame" in error_of(job)
    job.resume()
    assert job.state() in ("waiting", "running")
    queue.submit(job)
    wait_for(job, "failed")
    queue.close()


def test_the_queue_waits_for_a_command_that_survived_its_server(tmp_path: Path) -> None:
    job = Job.make(tmp_path / "a/runs/1", [["--version"]], created=1.0)
    lock = Lock.take(job.folder / "lock")
    assert lock is not None
    queue = start_queue(tmp_path)
    time.sleep(0.3)
    assert job.state() == "running"
    assert not (job.folder / "0.out").exists()
    lock.release()
    wait_for(job, "done")
    queue.close()
    assert (job.folder / "0.out").read_text().startswith("loraedit ")


def test_progress_has_phases_with_the_time_left_and_the_loss(tmp_path: Path) -> None:
    job = Job.make(tmp_path / "a/runs/1", [["edit"]], created=1.0)
    events = [("encode", 0, 1, "", 1.0), ("encode", 1, 1, "", 3.0), ("train", 0, 1, "", 3.0)]
    events += [("train", step, 10, f"transformer loss {1 / step:.4f}", 3.0 + step) for step in (1, 2, 3, 4, 5)]
    names = ("phase", "done", "total", "note", "at")
    lines = [json.dumps(dict(zip(names, event, strict=True))) for event in events]
    (job.folder / "0.err").write_text("\n".join([*lines, '{"phase": "tra']))
    found = progress_of(job)
    assert [(phase["label"], phase["done"], phase["total"]) for phase in found["phases"]] == [
        ("Encoding", 1, 1), ("Training the LoRA", 5, 10),
    ]  # fmt: skip
    assert found["phases"][0]["left"] == 0
    assert found["phases"][1]["left"] == pytest.approx(5.0)
    assert found["losses"][-1] == (5, 0.2)
