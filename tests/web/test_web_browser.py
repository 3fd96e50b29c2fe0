"""From clip to edited clip in a real browser, on nano; the download is what the command line makes."""

from __future__ import annotations

import shlex
import shutil
import time
from pathlib import Path

import forked
import pytest
from browser import find_chromium
from scenes import make_scene

pytest.importorskip("uvicorn", reason="the page needs the extra 'web'")

from web_client import QUICK, Server, write_inputs
from web_page import READY, WebPage

HOSTILE = "<img src=x onerror='document.title=1'>.mkv"


def test_from_clip_to_edited_clip_as_on_the_command_line(tmp_path: Path) -> None:
    chromium = find_chromium()
    if chromium is None:
        pytest.skip("there is no Chromium on this machine; install one to test the page in a browser")
    files = write_inputs(tmp_path / "inputs", make_scene())
    server = Server(tmp_path / "folder").start()
    try:
        with WebPage(chromium, tmp_path / "profile", timeout_s=400) as page:
            page.visit(server.address)
            page.give_file("clip-file", (files / "source.mkv").rename(files / HOSTILE))
            page.wait_for("document.getElementById('clip-status').textContent.includes('5 frames, 44x36')")
            page.give_file("edited-file", files / "edited.png")
            page.wait_for(READY)
            page.wait_for("!document.querySelector('#mask-player .over').classList.contains('blank')")
            automatic = page.state()["mask"]["key"]
            correct_by_click(page)
            assert page.state()["mask"]["key"] != automatic
            run = run_and_watch(page)
            made = {name: page.fetched(f"/media/run/{run}/{name}?download") for name in ("video", "lora", "command")}
            assert page.errors == []
            assert page.evaluate("document.title") == "loraedit"
            assert HOSTILE in page.evaluate("document.getElementById('clip-status').textContent")
            assert all(url.startswith((server.address, "blob:")) for url in page.requests)
    finally:
        server.stop()
    home = next(server.folder.glob("*/clips")).parent
    ours = by_command_line(made["command"].decode(), home, tmp_path / "by-hand")
    assert (ours / "edited.mp4").read_bytes() == made["video"]
    assert next((ours / "run/lora").iterdir()).read_bytes() == made["lora"]


def test_the_recipe_has_a_sentence_and_a_text_can_be_none(tmp_path: Path) -> None:
    chromium = find_chromium()
    if chromium is None:
        pytest.skip("there is no Chromium on this machine; install one to test the page in a browser")
    server = Server(tmp_path / "folder").start()
    try:
        with WebPage(chromium, tmp_path / "profile", timeout_s=60) as page:
            page.visit(server.address)
            page.wait_for("document.getElementById('set-recipe').value === 'model'")
            page.set_value("recipe", "propagate")
            page.wait_for("document.getElementById('recipe-use').textContent.includes('logos')")
            page.set_value("negative_prompt", "rain")
            page.wait_for("document.querySelectorAll('[data-setting=negative_prompt]').length === 2")
            await_settings(page, {"recipe": "propagate", "negative_prompt": "rain"})
            page.evaluate("document.querySelectorAll('[data-setting=negative_prompt]')[1].click(); 1")
            await_settings(page, {"recipe": "propagate", "negative_prompt": ""})
            page.evaluate("document.querySelectorAll('[data-setting=negative_prompt]')[1].click(); 1")
            await_settings(page, {"recipe": "propagate"})
            assert page.evaluate("document.querySelector('[data-setting=scheduler]').options[0].text") == "the model's"
            assert page.errors == []
    finally:
        server.stop()


def await_settings(page: WebPage, settings: dict[str, str]) -> None:
    """Waits until the server has these settings besides the model."""
    for _ in range(100):
        found = page.state()["draft"]["settings"]
        if {name: value for name, value in found.items() if name != "model"} == settings:
            return
        time.sleep(0.1)
    pytest.fail(f"The server has {found}, expected {settings}.")


def correct_by_click(page: WebPage) -> None:
    """Sets a point on the object in frame 2."""
    page.evaluate(
        "const s = document.querySelector('#mask-player input'); s.value = 2; s.dispatchEvent(new Event('input'));"
        "document.querySelector('[name=tool][value=on]').click(); 1"
    )
    page.click_picture("#mask-player canvas", 18.5 / 44, 15.5 / 36)
    page.wait_for(f"!({READY})")
    page.wait_for(READY)
    assert page.state()["draft"]["points"] == [[2, 18, 15, True]]


def run_and_watch(page: WebPage) -> str:
    """Starts a run, waits for its progress and its result, and plays it; returns the run."""
    for name, value in QUICK.items():
        page.set_value(name, value)
    page.press("start")
    page.wait_for("document.querySelector('.run .phase progress')")
    page.wait_for("document.querySelector('.run video')")
    page.evaluate("const v = document.querySelector('.run video'); v.muted = true; v.play(); 1")
    page.wait_for("document.querySelector('.run video').currentTime > 0.05")
    assert "bit for bit" in page.evaluate("document.querySelector('.run').textContent")
    run: str = page.evaluate("document.querySelector('.run').id")
    return run


def by_command_line(shown: str, home: Path, folder: Path) -> Path:
    """Runs the shown commands on the same uploads in another folder; returns the run's folder."""
    for name in ("clips", "images"):
        shutil.copytree(home / name, folder / name)
    first, *commands = shown.splitlines()
    assert first == shlex.join(["cd", str(home)])
    for line in commands[:2]:
        program, *arguments = shlex.split(line)
        assert program == "loraedit"
        assert forked.run(arguments, folder).returncode == 0
    return next((folder / "runs").iterdir())
