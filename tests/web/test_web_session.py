"""A session without a server: previews, trims with their sound, and a LoRA store for each user."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import pytest
from films import Making, make_film, packets
from PIL import Image as PilImage
from scenes import make_scene

from loraedit.errors import InputError
from loraedit.types import Clip
from loraedit.video import write_clip
from loraedit.web.app import App
from loraedit.web.commands import as_text, edit_commands, plan_command
from loraedit.web.drafts import Draft
from loraedit.web.jobs import Job, Lock
from loraedit.web.pictures import product
from loraedit.web.progress import progress_of
from loraedit.web.session import Session
from loraedit.web.session_state import session_state

RUN = "20260101-000000-0000"


@pytest.fixture
def session(tmp_path: Path) -> Session:
    return App(tmp_path / "folder", ["nano"]).session("user")


@pytest.fixture
def running(session: Session) -> Iterator[Job]:
    """A run in progress, with a preview before training and one after 9 and after 10 steps."""
    source = session.files.folder / "incoming/clip.mkv"
    write_clip(source, Clip(make_scene().source, Fraction(5)))
    clip = session.files.keep_clip(source, hashlib.sha256(source.read_bytes()).hexdigest())
    draft = Draft(clip=clip, whole=clip)
    about = {"created": 1.0, "name": "", "draft": draft.model_dump(mode="json")}
    job = Job.make(session.files.folder / "runs" / RUN, edit_commands(draft, RUN), **about)
    previews = job.folder / "run/preview"
    previews.mkdir(parents=True)
    for at, name in enumerate(("train-000010", "train-000009", "start-0f", ".train-000020")):
        PilImage.new("RGB", (2, 2)).save(previews / f"{name}.png")
        os.utime(previews / f"{name}.png", (100 - at, 100 - at))
    lock = Lock.take(job.folder / "lock")
    assert lock is not None
    yield job
    lock.release()


def test_the_newest_whole_preview_is_shown_while_a_run_goes_on(session: Session, running: Job) -> None:
    (shown,) = session_state(session)["runs"]
    assert (shown["state"], shown["preview"]) == ("running", "train-000010")
    assert product(session.files, RUN, "preview") == running.folder / "run/preview/train-000010.png"


def test_a_run_without_previews_shows_none(session: Session, running: Job) -> None:
    for path in (running.folder / "run/preview").iterdir():
        path.unlink()
    assert session_state(session)["runs"][0]["preview"] is None
    with pytest.raises(InputError, match="no such file"):
        product(session.files, RUN, "preview")


def test_a_preview_on_the_way_is_no_phase_of_its_own(running: Job) -> None:
    events = [("preview", 0, 1, ""), ("preview", 1, 1, "run/preview/start-0f.png"), ("preview", 1, 1, "")]
    events += [("train", 1, 4, "loss 1"), ("preview", 1, 1, "run/preview/train-000001.png"), ("train", 2, 4, "loss 1")]
    names = ("phase", "done", "total", "note", "at")
    lines = [json.dumps(dict(zip(names, (*event, float(at)), strict=True))) for at, event in enumerate(events)]
    (running.folder / "0.err").write_text("\n".join(lines))
    phases = {phase["name"]: phase for phase in progress_of(running)["phases"]}
    assert list(phases) == ["preview", "train"]
    assert phases["preview"]["seconds"] == 2.0
    assert phases["train"]["done"] == 2


def test_each_user_has_a_store_and_the_shown_command_names_it(tmp_path: Path) -> None:
    draft = Draft(clip="0123456789abcdef.mkv", edited="0123456789abcdef.png", settings={"preview_every": 4})
    edit, _ = edit_commands(draft, RUN)
    assert {"--store=loras", "--preview-every=4"} <= set(edit)  # in the user's folder, in which commands run
    assert "--store=loras" in as_text([edit], tmp_path)
    with pytest.raises(InputError, match="no setting 'store'"):
        App(tmp_path, ["nano"]).session("user").set_draft({"settings": {"store": "/elsewhere"}})


def test_the_page_offers_every_setting_of_the_method_and_says_whose_default_it_has(session: Session) -> None:
    state = session_state(session)
    fields = state["fields"]
    assert set(state["recipes"]) == set(fields["recipe"]["enum"])
    assert all(use.endswith(".") for use in state["recipes"].values())
    of_model = ("negative_prompt", "trigger", "scheduler", "flow_shift", "reference_training", "lr_schedule", "steps")
    assert [name for name in of_model if not fields[name]["of_model"]] == []
    assert not fields["seed"]["of_model"] and not fields["prompt"]["of_model"]
    assert {name for name, field in fields.items() if field["may_be_none"]} == {"negative_prompt", "trigger"}


def test_an_empty_negative_prompt_is_a_choice_and_an_absent_one_is_the_model_s(tmp_path: Path) -> None:
    session = App(tmp_path, ["nano"]).session("user")
    session.set_draft({"settings": {"negative_prompt": "", "trigger": "", "recipe": "fast"}})
    saved = session.draft().settings
    draft = Draft(clip="0123456789abcdef.mkv", edited="0123456789abcdef.png", settings=saved)
    edit, _ = edit_commands(draft, RUN)
    assert {"--negative-prompt=", "--trigger=", "--recipe=fast"} <= set(edit)
    planned = plan_command(draft)
    assert planned is not None and "--recipe=fast" in planned and "--negative-prompt=" not in planned
    edit, _ = edit_commands(draft.model_copy(update={"settings": {"recipe": "model"}}), RUN)
    assert not [part for part in edit if part.startswith(("--negative-prompt", "--trigger", "--recipe"))]


def test_a_trimmed_clip_keeps_the_sound_of_its_time(session: Session) -> None:
    source = session.files.folder / "incoming/clip.mp4"
    make_film(source, Making(sound="aac"))
    digest, sound = hashlib.sha256(source.read_bytes()).hexdigest(), packets(source, "audio")
    clip = session.files.keep_clip(source, digest)
    session.set_draft({"clip": clip, "whole": clip})
    session.trim(1, 4)
    state = session_state(session)
    part = session.files.clip(state["draft"]["clip"])
    kept = packets(part, "audio")
    assert state["clip"]["frames"] == 3
    assert 0 < len(kept) < len(sound)
    assert kept[0] in sound and sound[sound.index(kept[0]) :][: len(kept)] == kept
    assert not list((session.files.folder / "incoming").iterdir())
