"""``make web-check``: several people, reloads, killed servers, accessibility; too long for every test run."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import find_chromium
from scenes import make_scene
from web_client import QUICK, Server, Visitor, is_alive, is_finished, write_inputs
from web_page import READY, WebPage

AXE = "axe-core@4.14.1"
LONG: dict[str, Any] = {"steps": 400, "sampling_steps": 1}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_inputs(tmp_path_factory.mktemp("inputs"), make_scene())


@pytest.fixture
def server(tmp_path: Path, checkpoint: Path) -> Iterator[Server]:
    running = Server(tmp_path / "folder", "--model", str(checkpoint)).start()
    yield running
    running.stop()


@pytest.fixture(scope="module")
def axe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("npm") is None:
        pytest.skip("there is no npm on this machine; install it to check accessibility with axe-core")
    folder = tmp_path_factory.mktemp("axe")
    subprocess.run(["npm", "install", "--prefix", str(folder), AXE], check=True, capture_output=True)
    return folder / "node_modules/axe-core/axe.min.js"


def begin(visitor: Visitor, files: Path, model: Path, settings: dict[str, Any]) -> str:
    visitor.lay_out(files, model=str(model), **settings)
    run: str = visitor.send("POST", "/api/runs")["run"]
    return run


def in_training(state: dict[str, Any]) -> bool:
    return any(phase["name"] == "train" and phase["done"] > 5 for phase in state["runs"][0].get("phases", []))


def test_two_users_at_once_both_finish_and_do_not_see_each_other(server: Server, files: Path, checkpoint: Path) -> None:
    ann, bob = Visitor(server), Visitor(server)
    theirs = [(who, begin(who, files, checkpoint, {**QUICK, "seed": seed})) for who, seed in ((ann, 1), (bob, 2))]
    for (who, run), (other, _) in (theirs, theirs[::-1]):
        state = who.wait(is_finished)
        assert [shown["id"] for shown in state["runs"]] == [run]
        assert state["runs"][0]["state"] == "done", state["runs"][0]
        assert state["runs"][0]["exact"] is True
        for name in state["runs"][0]["products"]:
            assert who.ask("GET", f"/media/run/{run}/{name}")[0] == 200, name
            assert other.ask("GET", f"/media/run/{run}/{name}")[0] == 422, name
        assert other.ask("GET", f"/media/result/{run}/0")[0] == 422
        for action in ("stop", "remove", "reopen", "again"):
            assert "no such run" in other.refused("POST", f"/api/runs/{run}/{action}", {})


def test_a_new_edit_of_the_same_clip_uses_its_lora_again_and_says_so(
    server: Server, files: Path, checkpoint: Path
) -> None:
    user = Visitor(server)
    first = begin(user, files, checkpoint, QUICK)
    mask = user.wait(is_finished)["runs"][0]["mask"]
    state = user.send("POST", f"/api/runs/{first}/again")
    assert state["mask"]["kept"] is True
    assert state["draft"]["edited"] is None
    edited = user.upload("image", files / "edited.png")
    settings = {**state["draft"]["settings"], "seed": 7}
    user.send("PUT", "/api/draft", {**state["draft"], "edited": edited, "settings": settings})
    user.send("POST", "/api/runs")
    second = user.wait(is_finished)["runs"][0]
    assert second["id"] != first
    assert second["mask"] == mask
    assert "train motion" in second["reused"]
    assert second["saved"]["train_steps"] == QUICK["steps"]
    stranger = Visitor(server)  # with the same clip; the LoRA of the first user is not reused
    begin(stranger, files, checkpoint, QUICK)
    assert stranger.wait(is_finished)["runs"][0]["reused"] == []


def test_a_stopped_run_ends_its_process_and_continues_where_it_was(
    server: Server, files: Path, checkpoint: Path
) -> None:
    user = Visitor(server)
    run = begin(user, files, checkpoint, LONG)
    user.wait(in_training)
    pid = int(next(server.folder.glob(f"*/runs/{run}/pid")).read_text())
    user.send("POST", f"/api/runs/{run}/stop")
    user.wait(lambda state: state["runs"][0]["state"] == "stopped")
    assert not is_alive(pid)
    user.send("POST", f"/api/runs/{run}/resume")
    assert user.wait(is_finished)["runs"][0]["state"] == "done"


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_server_that_ends_finds_its_runs_again_and_continues(
    server: Server, files: Path, checkpoint: Path, how: signal.Signals
) -> None:
    user = Visitor(server)
    run = begin(user, files, checkpoint, LONG)
    user.wait(in_training)
    pid = int(next(server.folder.glob(f"*/runs/{run}/pid")).read_text())
    server.stop(how)
    assert is_alive(pid) is (how == signal.SIGKILL)  # one that may say goodbye stops its runs
    server.start()
    assert [shown["id"] for shown in user.state()["runs"]] == [run]
    assert user.wait(is_finished)["runs"][0]["state"] == "done"


def test_a_run_whose_process_was_killed_too_continues(server: Server, files: Path, checkpoint: Path) -> None:
    user = Visitor(server)
    run = begin(user, files, checkpoint, LONG)
    user.wait(in_training)
    server.stop(signal.SIGKILL)
    os.killpg(int(next(server.folder.glob(f"*/runs/{run}/pid")).read_text()), signal.SIGKILL)
    server.start()
    assert user.wait(is_finished)["runs"][0]["state"] == "done"


def test_a_reload_finds_the_run_and_no_page_has_a_serious_fault(
    server: Server, files: Path, checkpoint: Path, axe: Path, tmp_path: Path
) -> None:
    chromium = find_chromium()
    if chromium is None:
        pytest.skip("there is no Chromium on this machine; install one to test the page in a browser")
    faults: list[list[str]] = []
    with WebPage(chromium, tmp_path / "profile", timeout_s=500) as page:
        page.resize(1000, 800)
        page.visit(server.address)
        faults += page.axe(axe)
        page.give_file("clip-file", files / "source.mkv")
        page.wait_for("document.getElementById('clip-status').textContent.includes('5 frames')")
        page.give_file("edited-file", files / "edited.png")
        page.wait_for(READY)
        for name, value in {**LONG, "steps": 60, "model": checkpoint}.items():
            page.set_value(name, value)
        page.press("start")
        page.wait_for("document.querySelector('.run svg.loss')")
        faults += page.axe(axe)
        run = page.evaluate("document.querySelector('.run').id")
        page.visit(server.address)
        page.wait_for("document.querySelector('.run .phase progress')")
        assert page.evaluate("document.querySelector('.run').id") == run
        page.wait_for("document.querySelector('.run table')")
        page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; }); 1")
        for width, dark in ((1000, False), (390, False), (390, True)):
            page.resize(width, 800, dark)
            time.sleep(0.5)  # colours fade over
            faults += page.axe(axe)
            assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.press("paint")
        page.wait_for("document.getElementById('paint-dialog').open")
        faults += page.axe(axe)
        assert page.errors == []
    assert faults == []
