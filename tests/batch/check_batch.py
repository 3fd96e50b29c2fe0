"""``make batch-check``: batches on a Ray cluster of several node processes, and what they cost; too long for every run.

The throughput is only worth anything on a machine with two quiet cores.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from batches import Plain, endings, nothing, products, resident_bytes, trainings, wait_until, write_batch

from loraedit.batch.board import Board, Line
from loraedit.batch.jobs import read_jobs
from loraedit.batch.local import LocalPool
from loraedit.batch.places import Depot
from loraedit.batch.schedule import Event, Pool, Queue, work_through
from loraedit.batch.work import EditTask

ray = pytest.importorskip("ray", reason="the check of clusters needs Ray: pip install -e '.[ray]'")

pytestmark = pytest.mark.filterwarnings("default")
CLIPS, LOOKS = 8, 3
JOBS = CLIPS * LOOKS
NODE = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
QUEUED = 10_000
SMALL = 0.1
"""Of nano's frame area; bytes alone matter."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("batch")


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A head without processors of its own; nodes are the test's to add."""
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("RAY_worker_niceness", "0")  # by itself Ray's workers yield to everybody else on the machine
    here = [str(Path(__file__).parents[1] / "support"), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, here)))  # workers find ``batches``
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": 80 * 2**20}
    running = Cluster(initialize_head=True, head_node_args=head)
    yield running
    ray.shutdown()
    running.shutdown()


def command(file: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "loraedit", "batch", str(file), "--json", *options]


@pytest.fixture(scope="module")
def sequential(root: Path) -> Path:
    """The folder of a batch that one process has done, one job after the other."""
    file = write_batch(root, "nano", CLIPS, LOOKS, "sequential", name="sequential.toml", area=SMALL)
    subprocess.run(command(file, "--gpus-per-job", "0"), check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    return root / "sequential"


def assert_equal(folder: Path, other: Path) -> None:
    """Every job has the other's bytes, and none that had ended was done again.

    One whose worker was killed after the clip was composed, but before it was measured and reported, had not ended.
    """
    jobs = sorted(folder.glob("jobs/*"))
    tries = {job["name"]: job["tries"] for job in json.loads((folder / "results.json").read_text())["jobs"]}
    assert len(jobs) == JOBS
    for job in jobs:
        assert products(job) == products(other / "jobs" / job.name), job.name
        assert 1 <= endings(job) <= max(1, tries[job.name]), f"{job.name} was done again"
    assert len(trainings(folder)) == len(set(trainings(folder))) == CLIPS


def test_a_cluster_of_several_nodes_does_what_one_process_does(root: Path, cluster: Any, sequential: Path) -> None:
    for _ in range(3):
        cluster.add_node(**NODE)
    file = write_batch(root, "nano", CLIPS, LOOKS, "cluster", name="cluster.toml", area=SMALL)
    options = ("--ray", cluster.address, "--gpus-per-job", "0")
    told = json.loads(subprocess.run(command(file, *options), check=True, stdout=subprocess.PIPE).stdout)
    assert told["counts"]["done"] == JOBS
    assert_equal(root / "cluster", sequential)
    again = time.monotonic()
    subprocess.run(command(file, *options), check=True, stdout=subprocess.DEVNULL)
    print(f"the same batch again: {time.monotonic() - again:.1f} s")
    assert_equal(root / "cluster", sequential)


def test_a_worker_and_a_node_killed_in_the_middle_lose_nothing_and_nothing_is_done_twice(
    root: Path, cluster: Any, sequential: Path
) -> None:
    nodes = [cluster.add_node(**NODE) for _ in range(3)]
    file = write_batch(root, "nano", CLIPS, LOOKS, "killed", name="killed.toml", area=SMALL)
    options = ("--ray", cluster.address, "--gpus-per-job", "0")
    driver = subprocess.Popen(command(file, *options), stdout=subprocess.PIPE)
    done = lambda: list((root / "killed").glob("jobs/*/outcome.json"))  # noqa: E731
    wait_until(lambda: len(done()) >= 4 or driver.poll() is not None, 600)
    worker = int(json.loads(done()[-1].read_text())["host"].rpartition(":")[2])
    os.kill(worker, signal.SIGKILL)
    reached = len(done())
    wait_until(lambda: len(done()) >= reached + 4 or driver.poll() is not None, 600)
    cluster.remove_node(nodes[0], allow_graceful=False)
    out, _ = driver.communicate(timeout=1200)
    assert driver.returncode == 0
    assert json.loads(out)["counts"] == {"waiting": 0, "running": 0, "done": JOBS, "failed": 0}
    jobs = json.loads((root / "killed/results.json").read_text())["jobs"]
    print("begun again:", {job["name"]: job["tries"] for job in jobs if job["tries"] > 1})
    assert any(job["tries"] > 1 for job in jobs)
    assert_equal(root / "killed", sequential)


def test_two_workers_of_one_core_do_nearly_twice_as_much_as_one(root: Path, cluster: Any) -> None:
    from loraedit.batch.cluster import RayPool

    rates = {}
    for count in (1, 2):
        cluster.add_node(**NODE)
        name = f"throughput-{count}"
        file = write_batch(root, "nano", 8, 1, name, name=f"{name}.toml", steps=30, sampling_steps=10)
        batch, jobs = read_jobs(file)
        assert batch.folder is not None
        task = EditTask(batch.folder, "cpu")
        pool = RayPool.connect(cluster.address, task, Depot(batch.folder), 0, count)
        rates[count] = _rate(pool, jobs, count)
    print(f"jobs a second: {rates[1]:.3f} with one worker, {rates[2]:.3f} with two, {rates[2] / rates[1]:.2f} times")
    assert rates[2] >= 1.7 * rates[1]


def _rate(pool: Pool, jobs: Any, workers: int) -> float:
    """Jobs a second, each worker counted from its first job's end, by which it has loaded everything."""
    ended: list[tuple[float, str]] = []

    def tell(event: Event | None) -> None:
        assert event is None or event.kind not in ("failed", "lost"), event
        if event is not None and event.kind == "done":
            ended.append((time.monotonic(), event.worker))

    try:
        work_through(Queue(jobs, 0), pool, tell)
    finally:
        pool.close()
    workers_seen = {who for _, who in ended}
    assert len(workers_seen) == workers
    return sum(_pace([at for at, one in ended if one == who]) for who in workers_seen)


def _pace(times: list[float]) -> float:
    """Jobs a second of one worker, between its first and its last."""
    gaps = [later - sooner for sooner, later in pairwise(times)]
    return len(gaps) / sum(gaps)


@pytest.mark.parametrize("where", ["local", "cluster"])
def test_ten_thousand_queued_jobs_cost_little_time_and_no_memory(
    where: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    jobs = [Plain(f"job-{index:05d}", f"clip-{index // 40}") for index in range(QUEUED)]
    if where == "local":
        pool: Pool = LocalPool(nothing, 1, tmp_path)
    else:
        from loraedit.batch.cluster import RayPool

        cluster = request.getfixturevalue("cluster")
        cluster.add_node(**NODE)
        pool = RayPool.connect(cluster.address, nothing, Depot(str(tmp_path)), 0, 1)
    board = Board(Line(job.name, {}) for job in jobs)
    memory, marks = {}, []

    def tell(event: Event | None) -> None:
        if event is not None:
            board.update(event)
            if event.kind == "done":
                marks.append(time.monotonic())
                if len(marks) in (QUEUED // 10, QUEUED):
                    memory[len(marks)] = resident_bytes()

    spent = time.process_time()
    try:
        work_through(Queue(jobs, 0), pool, tell)
    finally:
        pool.close()
    spent = (time.process_time() - spent) / QUEUED * 1e3
    whole = (marks[-1] - marks[0]) / QUEUED * 1e3
    grown = memory[QUEUED] - memory[QUEUED // 10]
    print(
        f"{where}: {whole:.2f} ms a job in all, {spent:.2f} ms of it here; {grown / 2**20:.1f} MiB more for 9,000 jobs"
    )
    assert board.counts["done"] == QUEUED
    assert spent < 5
    assert whole < 5 or where == "cluster"  # there most of it is Ray's own way to a worker and back
    assert grown < 32 * 2**20
