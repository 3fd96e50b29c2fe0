"""Claims about batches: what a jobs file means, which job comes next, and what is left when something fails."""

from __future__ import annotations

import csv
import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import fsspec
import pytest
from batches import Fragile, Inline, Plain, endings, nothing, products, resident_bytes, trainings, write_batch
from mutants import HOSTILE_PROMPT
from typer.testing import CliRunner

import loraedit
from loraedit.batch import run_batch
from loraedit.batch.board import Board, Line, as_csv
from loraedit.batch.jobs import read_jobs
from loraedit.batch.local import LocalPool
from loraedit.batch.page import index_page
from loraedit.batch.places import Depot, fetch, stamp
from loraedit.batch.schedule import Event, Queue, work_through
from loraedit.cli.main import app
from loraedit.errors import InputError

MEMORY = "memory://studio"


@pytest.fixture
def own_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches run here."""
    monkeypatch.setattr("loraedit.batch.run.LocalPool", Inline)


# ---- jobs.toml -------------------------------------------------------------------------------------------------------


def test_a_grid_has_a_job_for_each_clip_look_and_seed_and_the_nearest_word_counts(tmp_path: Path) -> None:
    file = write_batch(tmp_path, "nano", 2, 2, seeds=(3, 4))
    text = file.read_text().replace('name = "l1"', 'name = "l1"\nsteps = 9\nprompt = "a red coat"')
    extra = '[[jobs]]\nname = "alone"\nsource = "c0.mkv"\nfirst_frame = "c0-l0.png"\nseed = 7\n'
    file.write_text(f"{text}\n{extra}")
    batch, jobs = read_jobs(file)
    by_name = {job.name: job for job in jobs}
    assert list(by_name) == [f"c{c}-l{k}-{s}" for c in (0, 1) for k in (0, 1) for s in (3, 4)] + ["alone"]
    job = by_name["c1-l1-4"]
    assert (job.source, job.first_frame) == (str(tmp_path / "c1.mkv"), str(tmp_path / "c1-l1.png"))
    assert (job.settings["steps"], job.settings["seed"], job.settings["prompt"]) == (9, 4, "a red coat")
    assert by_name["c1-l0-3"].settings["steps"] == 2 and "prompt" not in by_name["c1-l0-3"].settings
    assert batch.folder == str(tmp_path / "out")


def test_jobs_of_a_clip_are_a_group_until_something_that_training_sees_differs(tmp_path: Path) -> None:
    file = write_batch(tmp_path, "nano", 2, 2, seeds=(0, 1))
    groups = {job.name: job.group for job in read_jobs(file)[1]}
    assert len({groups[name] for name in groups if name.startswith("c0")}) == 1
    assert len(set(groups.values())) == 2
    automatic = file.read_text().replace('mask = "5,7,20,25"', "")
    file.write_text(automatic)
    assert len({job.group for job in read_jobs(file)[1]}) == 4  # a mask of its own for each look


@pytest.mark.parametrize(
    ("defaults", "look", "shared"),
    [
        ("", 'prompt = "a red coat"', False),  # it stands in for the source prompt
        ('source_prompt = "a coat"', 'prompt = "a red coat"', True),
        ('source_prompt = "a coat"', 'source_prompt = "a blue coat"', False),
        ('captioner = "florence-2"', 'prompt = "a red coat"', True),
        ("", 'negative_prompt = "rain"', True),
        ("", 'trigger = "sks"', False),
        ("", 'recipe = "paper"', False),
        ("", "guidance = 2.0\nscheduler = 'unipc'\nflow_shift = 3.0", True),
        ("", "reference_training = 'joint'", True),
    ],
)
def test_looks_share_a_lora_unless_training_on_the_source_sees_a_difference(
    defaults: str, look: str, shared: bool, tmp_path: Path
) -> None:
    file = write_batch(tmp_path, "nano", 1, 2)
    text = file.read_text().replace("[defaults]", f"[defaults]\n{defaults}")
    file.write_text(text.replace('name = "l1"', f'name = "l1"\n{look}'))
    first, second = read_jobs(file)[1]
    assert (first.group == second.group) is shared
    assert first.key != second.key


def test_every_setting_of_the_method_is_a_key_of_defaults_and_of_jobs(tmp_path: Path) -> None:
    file = write_batch(tmp_path, "nano", 1, 1)
    given = {
        "recipe": "fast", "negative_prompt": "rain", "trigger": "sks", "scheduler": "euler", "flow_shift": 3.0,
        "lr_schedule": "constant", "reference_training": "joint",
    }  # fmt: skip
    lines = "\n".join(f"{name} = {json.dumps(value)}" for name, value in given.items())
    alone = '[[jobs]]\nname = "alone"\nsource = "c0.mkv"\nfirst_frame = "c0-l0.png"\nnegative_prompt = ""\n'
    file.write_text(file.read_text().replace("[defaults]", f"[defaults]\n{lines}") + f"\n{alone}")
    in_grid, on_its_own = (job.settings for job in read_jobs(file)[1])
    assert given.items() <= in_grid.items()
    assert on_its_own["negative_prompt"] == "" and on_its_own["recipe"] == "fast"


def test_a_job_is_another_one_once_its_input_has_other_content(tmp_path: Path) -> None:
    file = write_batch(tmp_path, "nano", 1, 2)
    before = {job.name: job.key for job in read_jobs(file)[1]}
    shutil.copy(tmp_path / "c0-l1.png", tmp_path / "c0-l0.png")
    stamp.cache_clear()
    after = {job.name: job.key for job in read_jobs(file)[1]}
    assert before["c0-l0"] != after["c0-l0"] and before["c0-l1"] == after["c0-l1"]


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("steps = 2", "stepps = 2", "no key 'defaults.stepps'"),
        ("steps = 2", "steps = 2\n[default]", "no key 'default'"),
        ("steps = 2", "steps = -2", "'defaults.steps' should be greater"),
        ("steps = 2", 'steps = 2\ndevice = "cpu"', "gives 'device'"),
        ("steps = 2", 'steps = 2\nout = "run"', "cannot be called 'run'"),
        ("steps = 2", 'steps = 2\nout = "../x.mp4"', "'defaults.out' should be a plain name"),
        ("steps = 2", 'steps = 2\nout = "x.avi"', "cannot be written as .avi"),
        ("steps = 2", "steps = 2\nreferences = { 99 = 'c0-l0.png' }", "There is no frame 99"),
        ('model = "nano"', 'model = "nowhere"', "job 'c0-l0'"),
        ('mask = "5,7,20,25"', 'mask = "none.png"', "job 'c0-l0': There is no"),
        ('mask = "5,7,20,25"', 'mask = "30,30,34,34"', "Nothing inside the mask differs"),
        ('name = "c1"', 'name = "C0"', "two jobs 'C0-l0'"),
        ('name = "c1"', "seed = 1", "'clips.1' has no name"),
        ('source = "{clip}.mkv"', "", "job 'c0-l0' has no source"),
        ("[defaults]", "[defaults", "not valid TOML"),
    ],
)
def test_a_file_that_cannot_be_done_is_refused_in_a_sentence_before_anything_is_written(
    old: str, new: str, told: str, tmp_path: Path
) -> None:
    file = write_batch(tmp_path, "nano", 2, 1)
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(loraedit.LoraEditError) as refused:
        run_batch(file)
    assert told in str(refused.value) and "jobs.toml" in str(refused.value)
    assert sorted(tmp_path.rglob("*")) == before


# ---- which job comes next --------------------------------------------------------------------------------------------


def test_one_job_of_each_clip_comes_first_and_the_others_once_its_lora_is_there() -> None:
    jobs = [Plain(f"{clip}{index}", clip) for clip in "ab" for index in range(3)]
    queue = Queue(jobs, 0)
    assert [queue.next(), queue.next(), queue.next()] == [jobs[0], jobs[3], None]
    queue.trained(jobs[3])
    assert [queue.next(), queue.next(), queue.next()] == [jobs[4], jobs[5], None]
    queue.done(jobs[0])
    assert [queue.next(), queue.next()] == [jobs[1], jobs[2]]


def test_a_job_that_failed_comes_again_before_others_of_its_clip_and_then_makes_way() -> None:
    first, second = jobs = [Plain("first", "clip"), Plain("second", "clip")]
    queue = Queue(jobs, 1)
    assert queue.next() is first and queue.failed(first)
    assert queue.next() is first and not queue.failed(first)
    assert queue.next() is second and queue.left == 1
    queue.done(second)
    assert queue.left == 0


def test_ten_thousand_jobs_cost_the_scheduler_next_to_nothing() -> None:
    jobs = [Plain(f"job-{index:05d}", f"clip-{index // 40}") for index in range(10_000)]
    board, before, began = Board(Line(job.name, {}) for job in jobs), resident_bytes(), time.process_time()
    work_through(Queue(jobs, 0), Inline(nothing), lambda event: event and board.update(event))
    assert board.counts["done"] == 10_000
    assert (time.process_time() - began) / 10_000 < 5e-3
    assert resident_bytes() - before < 50 * 2**20


def test_a_worker_that_dies_is_replaced_and_its_job_done_and_a_job_that_always_fails_says_why(tmp_path: Path) -> None:
    jobs = [Plain("whole"), Plain("mortal"), Plain("faulty"), Plain("last")]
    board = Board(Line(job.name, {}) for job in jobs)
    pool = LocalPool(Fragile(tmp_path), 1, tmp_path / "logs")
    heard: list[Event] = []
    try:
        work_through(Queue(jobs, 1), pool, lambda event: event and (heard.append(event), board.update(event)))
    finally:
        pool.close()
    assert {name: line.state for name, line in board.lines.items()} == {
        "whole": "done", "mortal": "done", "faulty": "failed", "last": "done",
    }  # fmt: skip
    lost = next(event for event in heard if event.kind == "lost")
    assert lost.job == "mortal" and lost.again and "killed (signal 9)" in lost.text
    assert "the disk is full" in board.lines["faulty"].why and board.lines["faulty"].tries == 2
    assert board.lines["mortal"].tries == 2


# ---- whole batches ---------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("own_process")
def test_a_batch_gives_what_single_edits_give_trains_a_clip_once_and_does_again_only_what_is_missing(
    checkpoint: Path, tmp_path: Path
) -> None:
    file = write_batch(tmp_path, str(checkpoint), 1, 2)
    result = run_batch(file, gpus_per_job=0)
    jobs = {name: tmp_path / "out/jobs" / name for name in ("c0-l0", "c0-l1")}
    assert result.board.counts["done"] == 2 and not result.board.failures()
    assert len(trainings(tmp_path / "out")) == 1
    single = loraedit.edit(
        tmp_path / "c0.mkv", tmp_path / "c0-l1.png", "5,7,20,25", run=tmp_path / "single", steps=2, sampling_steps=1,
        model=str(checkpoint), device="cpu",
    )  # fmt: skip
    assert single.clip.fingerprint == json.loads((jobs["c0-l1"] / "run/result.json").read_text())["frames"]
    (lora,) = (jobs["c0-l1"] / "run/lora").iterdir()
    assert lora.read_bytes() == (tmp_path / "single/lora" / lora.name).read_bytes()

    rows = list(csv.DictReader((tmp_path / "out/results.csv").read_text().splitlines()))
    assert [(row["name"], row["state"], row["outside_difference"]) for row in rows] == [
        ("c0-l0", "done", "0"), ("c0-l1", "done", "0"),
    ]  # fmt: skip
    assert all(float(row["seconds"]) > 0 and int(row["host_mib"]) > 0 for row in rows)
    page = (tmp_path / "out/index.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 2 and "jobs/c0-l0/run/report.html" in page

    kept, before = products(jobs["c0-l0"]), products(jobs["c0-l1"])
    shutil.rmtree(jobs["c0-l1"])
    run_batch(file, gpus_per_job=0)
    assert endings(jobs["c0-l0"]) == 1 and products(jobs["c0-l0"]) == kept
    assert products(jobs["c0-l1"]) == before and len(trainings(tmp_path / "out")) == 1


@pytest.mark.usefixtures("own_process")
def test_the_command_ends_with_one_and_says_why_if_a_job_fails(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr("loraedit.batch.work.EditTask._edit", fail)
    file = write_batch(tmp_path, str(checkpoint), 1, 1)
    ended = CliRunner().invoke(app, ["batch", str(file), "--json", "--retries", "1"])
    assert ended.exit_code == 1
    told = json.loads(ended.stdout)
    assert told["counts"]["failed"] == 1 and "the disk is full" in told["failed"]["c0-l0"]
    assert json.loads((tmp_path / "out/results.json").read_text())["jobs"][0]["tries"] == 2


@pytest.mark.usefixtures("own_process")
def test_without_ray_a_batch_runs_and_the_option_says_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setattr("loraedit.batch.run.EditTask", lambda *_: nothing)
    file = write_batch(tmp_path, "nano", 1, 1)
    with pytest.raises(InputError, match=r"pip install '\.\[ray\]'"):
        run_batch(file, ray="auto")
    assert not (tmp_path / "out").exists()
    assert run_batch(file).board.counts["done"] == 1


# ---- tables ----------------------------------------------------------------------------------------------------------


def test_no_text_gets_out_of_its_cell_in_the_page_and_in_the_table() -> None:
    line = Line("job", {}, "failed", why=HOSTILE_PROMPT, record={"report": 'x" onclick="y', "out": "=1+1"})
    page = index_page(HOSTILE_PROMPT, Board([line]), {})
    assert "<img" not in page and "<script" not in page and 'onclick="' not in page
    assert "default-src 'none'" in page
    assert "'=1+1" in as_csv([line.row()])


# ---- places ----------------------------------------------------------------------------------------------------------


def test_inputs_and_results_behind_urls_are_fetched_once_and_put_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    system = fsspec.filesystem("memory")
    system.pipe("/studio/in/clip.mkv", b"first")
    assert fetch(f"{MEMORY}/in/clip.mkv").read_bytes() == b"first"
    with pytest.raises(InputError, match="There is no"):
        fetch(f"{MEMORY}/in/none.mkv")
    with pytest.raises(InputError, match="cannot be reached"):
        fetch("nowhere9://bucket/clip.mkv")
    depot, other = Depot(f"{MEMORY}/out"), Depot(f"{MEMORY}/out")
    with depot.kept_up("jobs/a") as folder:
        (folder / "run/cache/pieces").mkdir(parents=True)
        (folder / "run/state").write_text("half")
        (folder / "run/cache/pieces/0").write_text("large")
        depot.push("jobs/a")
        assert system.cat("/studio/out/jobs/a/run/state") == b"half"
        (folder / "run/state").unlink()
        (folder / "outcome.json").write_text("{}")
    assert [path.removeprefix("/studio/out/") for path in system.find("/studio/out")] == ["jobs/a/outcome.json"]
    with other.kept_up("jobs/a") as folder:
        assert (folder / "outcome.json").read_text() == "{}"
    system.rm("/studio", recursive=True)
