"""The desk behind the page, without a server: previews, trims with their sound, and a store for each person."""

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
from loraedit.web.commands import as_text, edit_commands
from loraedit.web.drafts import Draft
from loraedit.web.jobs import Job, Lock
from loraedit.web.progress import progress_of
from loraedit.web.session import Desk, Office

RUN = "20260101-000000-0000"


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Office(tmp_path / "folder", ["nano"]).desk("person")


@pytest.fixture
def running(desk: Desk) -> Iterator[Job]:
    """A run that somebody works on, with a look before training and one after 9 and after 10 steps of it."""
    source = desk.store.folder / "incoming/clip.mkv"
    write_clip(source, Clip(make_scene().source, Fraction(5)))
    clip = desk.store.keep_clip(source, hashlib.sha256(source.read_bytes()).hexdigest())
    draft = Draft(clip=clip, whole=clip)
    about = {"created": 1.0, "name": "", "draft": draft.model_dump(mode="json")}
    job = Job.make(desk.store.folder / "runs" / RUN, edit_commands(draft, RUN), **about)
    looks = job.folder / "run/preview"
    looks.mkdir(parents=True)
    for at, name in enumerate(("train-000010", "train-000009", "start-0f", ".train-000020")):
        PilImage.new("RGB", (2, 2)).save(looks / f"{name}.png")
        os.utime(looks / f"{name}.png", (100 - at, 100 - at))
    lock = Lock.take(job.folder / "lock")
    assert lock is not None
    yield job
    lock.let_go()


def test_the_newest_whole_preview_is_shown_while_a_run_goes_on(desk: Desk, running: Job) -> None:
    (shown,) = desk.state()["runs"]
    assert (shown["state"], shown["preview"]) == ("running", "train-000010")
    assert desk.product(RUN, "preview") == running.folder / "run/preview/train-000010.png"


def test_a_run_without_previews_shows_none(desk: Desk, running: Job) -> None:
    for path in (running.folder / "run/preview").iterdir():
        path.unlink()
    assert desk.state()["runs"][0]["preview"] is None
    with pytest.raises(InputError, match="no such file"):
        desk.product(RUN, "preview")


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


def test_everybody_has_a_store_of_his_own_and_the_shown_command_names_it(tmp_path: Path) -> None:
    draft = Draft(clip="0123456789abcdef.mkv", edited="0123456789abcdef.png", settings={"preview_every": 4})
    edit, _ = edit_commands(draft, RUN)
    assert {"--store=loras", "--preview-every=4"} <= set(edit)  # of the person's folder, in which commands run
    assert "--store=loras" in as_text([edit], tmp_path)
    with pytest.raises(InputError, match="no setting 'store'"):
        Office(tmp_path, ["nano"]).desk("person").set_draft({"settings": {"store": "/elsewhere"}})


def test_a_trimmed_clip_keeps_the_sound_of_its_time(desk: Desk) -> None:
    source = desk.store.folder / "incoming/clip.mp4"
    make_film(source, Making(sound="aac"))
    digest, sound = hashlib.sha256(source.read_bytes()).hexdigest(), packets(source, "audio")
    clip = desk.store.keep_clip(source, digest)
    desk.set_draft({"clip": clip, "whole": clip})
    desk.trim(1, 4)
    state = desk.state()
    part = desk.store.clip(state["draft"]["clip"])
    kept = packets(part, "audio")
    assert state["clip"]["frames"] == 3
    assert 0 < len(kept) < len(sound)
    assert kept[0] in sound and sound[sound.index(kept[0]) :][: len(kept)] == kept
    assert not list((desk.store.folder / "incoming").iterdir())
