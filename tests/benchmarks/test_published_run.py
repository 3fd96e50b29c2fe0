"""Claims about the runner for published sets: it edits, measures, keeps and tables, and refuses before it begins."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from batches import Inline, endings
from published_sets import SETS, i2vedit_set, row
from tiny_encoders import save_tiny_encoders

from benchmarks.published import measures
from benchmarks.published.figures import LABELS
from benchmarks.published.run import FORMS, main
from loraedit.batch.jobs import read_jobs
from loraedit.errors import InputError

QUICK = ["steps=1", "sampling_steps=1", "colour_variants=1", "area=1.0", "recipe=paper"]


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return save_tiny_encoders(tmp_path_factory.mktemp("encoders"))


@pytest.fixture
def own_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loraedit.batch.run.LocalPool", Inline)


@pytest.mark.parametrize("form", SETS)
@pytest.mark.usefixtures("own_process")
def test_a_set_is_edited_measured_and_tabled_and_the_second_call_makes_nothing_again(
    tmp_path: Path, checkpoint: Path, encoders: list[str], form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, work, page = SETS[form](tmp_path / "set"), tmp_path / "work", tmp_path / "page.md"
    page.write_text("# Before\n")
    command = [str(folder), "--form", form, "--model", str(checkpoint), "--work", str(work), "--page", str(page)]
    command += [part for text in encoders for part in ("--encoder", text)]
    command += [*QUICK, "--gpus-per-job", "0"]
    main(command)
    first, jobs = page.read_text(), sorted((work / "batch/jobs").iterdir())
    assert first.startswith("# Before\n") and len(jobs) == len(FORMS[form](folder).cases)
    assert len(list((work / "measures").iterdir())) == 3 * len(jobs)
    has_text = form != "i2vedit"
    for name in ("clip_consistency", "dino_consistency", "first_frame_similarity", "frame_text", "pick"):
        assert (LABELS[name] in row(first, "method")) == (has_text or name not in ("frame_text", "pick"))
    assert all((job / "run/sheet.png").is_file() for job in jobs) and (work / "batch/index.html").is_file()

    def never(*_: object) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr(measures, "_load", never)
    main(command)
    assert page.read_text() == first and all(endings(job) == 1 for job in jobs)


@pytest.mark.usefixtures("own_process")
def test_extras_and_a_choice_of_cases_reach_the_edits_and_a_failure_is_told(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, work, extras = i2vedit_set(tmp_path / "set"), tmp_path / "work", tmp_path / "extras/item2-blue"
    extras.mkdir(parents=True)
    (extras / "prompt.txt").write_text("a blue square\n")
    shutil.copy(folder / "item10/blue.png", extras / "2.png")
    (tmp_path / "deqa.json").write_text('{"item2-blue": 3.5}')
    command = [str(folder), "--form", "i2vedit", "--model", str(checkpoint), "--work", str(work), *QUICK]
    command += ["--gpus-per-job", "0", "--only", "item2-*", "--extras", str(tmp_path / "extras")]
    command += ["--deqa", str(tmp_path / "deqa.json")]
    from loraedit.batch import work as batch_work

    edit = batch_work.EditTask._edit

    def fails(self: batch_work.EditTask, job: batch_work.BatchJob, *rest: object) -> dict[str, object]:
        if job.name == "item2-green-hat":
            raise InputError("the disk is full")
        return edit(self, job, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(batch_work.EditTask, "_edit", fails)
    with pytest.raises(SystemExit) as ended:
        main(command)
    assert ended.value.code == 1
    text = capsys.readouterr().out
    jobs = {job.name: job for job in read_jobs(work / "jobs.toml")[1]}
    assert list(jobs) == ["item2-blue", "item2-green-hat"]
    assert jobs["item2-blue"].settings["prompt"] == "a blue square" and list(jobs["item2-blue"].references) == [2]
    assert row(text, "item2-blue") == ["item2-blue", "3.5000"] and "2 of 3 cases were chosen by --only." in text
    assert "item2-green-hat failed: the disk is full" in text and "this folder, 1" in text


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["--only", "item7-*"], "--only 'item7-\\*' fits no case. The cases are item2-blue"),
        (["steps"], "'steps' is not NAME=VALUE"),
        (["stepps=3"], "no key 'defaults.stepps'"),
        (["--model", "no-such-folder"], "no-such-folder"),
        (["--options", "missing.toml"], "cannot be read as TOML"),
        (["--deqa", "{set}/other.json"], "a score for 'item9', which is no case"),
        (["--extras", "{set}/item2"], "belongs to no case"),
        (["--encoder", "clip={set}"], "is not an image encoder"),
    ],
)
def test_what_is_given_wrongly_ends_before_the_first_edit(tmp_path: Path, wrong: list[str], message: str) -> None:
    folder = i2vedit_set(tmp_path / "set")
    (folder / "other.json").write_text('{"item9": 3}')
    work = tmp_path / "work"
    with pytest.raises(SystemExit, match=f"published: .*{message}"):
        main([str(folder), "--form", "i2vedit", "--work", str(work), *(each.format(set=folder) for each in wrong)])
    assert not (work / "batch").exists()


def test_two_encoders_of_one_kind_are_refused(tmp_path: Path, encoders: list[str]) -> None:
    command = [str(i2vedit_set(tmp_path / "set")), "--form", "i2vedit", "--work", str(tmp_path / "work")]
    with pytest.raises(SystemExit, match="two encoders of one kind"):
        main([*command, "--encoder", encoders[0], "--encoder", encoders[0]])


@pytest.mark.usefixtures("own_process")
def test_a_model_is_fetched_before_the_edits_if_that_is_asked_for(
    tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched: list[tuple[str, int | None]] = []
    monkeypatch.setattr("benchmarks.published.run.local_weights", lambda *_: None)
    monkeypatch.setattr(
        "benchmarks.published.run.download_weights", lambda wanted, *_: fetched.append((wanted.model, wanted.steps))
    )
    command = [str(i2vedit_set(tmp_path / "set")), "--form", "i2vedit", "--work", str(tmp_path / "work"), *QUICK]
    command += ["--model", str(checkpoint), "--gpus-per-job", "0", "--only", "item10-*"]
    main(command)
    assert not fetched
    main([*command, "--download"])
    assert fetched == [(str(checkpoint), 1)]
