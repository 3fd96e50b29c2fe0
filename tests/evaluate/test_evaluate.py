"""A finished run is measured and reported; any other folder is refused with one sentence."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import forked
import numpy as np
import pytest
from browser import Page, find_chromium
from mutants import HOSTILE_PROMPT
from scenes import Scene
from tiny import save_tiny_clip

import loraedit
from loraedit.evaluate import evaluate_run
from loraedit.evaluate.page import Row, report_page
from loraedit.evaluate.run import MEASURES
from loraedit.runs.finished import read_finished
from loraedit.video import write_image

WITHOUT_ENCODER = {name for name in MEASURES if "similarity" not in name} | {"flow_similarity"}


def command(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return forked.run(["evaluate", *arguments])


@pytest.fixture
def run(finished_run: Path, tmp_path: Path) -> Path:
    return shutil.copytree(finished_run, tmp_path / "run")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_clip(tmp_path_factory.mktemp("clip"))


# ---- what a run keeps ------------------------------------------------------------------------------------------------


def test_a_run_keeps_what_it_was_made_from_to_the_bit(run: Path, scene: Scene) -> None:
    finished = read_finished(run)
    assert np.array_equal(np.stack(list(finished.source.rgb())), scene.source)
    assert np.array_equal(finished.edit_mask, scene.mask)
    assert np.array_equal(finished.edited_first, scene.edited_first)
    assert finished.source.fps == finished.result.fps == 5
    assert len(finished.losses) == 2
    assert finished.provenance["settings"]["prompt"] == HOSTILE_PROMPT


@pytest.mark.parametrize("name", ["source", "mask"])
def test_what_a_run_keeps_cannot_be_its_own_input(run: Path, scene: Scene, name: str) -> None:
    inputs = {"source": scene.source, "mask": scene.mask, name: str(run / name)}
    with pytest.raises(loraedit.InputError, match="the input itself"):
        loraedit.edit(inputs["source"], scene.edited_first, inputs["mask"], run=run)


def test_the_users_edited_frame_is_not_written_over(run: Path, scene: Scene) -> None:
    with pytest.raises(loraedit.InputError, match="the input itself"):
        loraedit.edit(scene.source, run / "first_frame_edited.png", scene.mask, run=run)


# ---- measuring -------------------------------------------------------------------------------------------------------


def test_a_run_is_measured_and_the_report_is_the_same_again(run: Path) -> None:
    evaluation = evaluate_run(run)
    assert set(evaluation.metrics) == WITHOUT_ENCODER
    assert evaluation.metrics["outside_difference"] == 0
    assert evaluation.metrics["changed_first"] > 0.3
    assert json.loads(evaluation.file.read_text())["metrics"] == evaluation.metrics
    page = evaluation.report.read_bytes()
    assert evaluate_run(run).report.read_bytes() == page


def test_the_command_measures_with_an_image_encoder(run: Path, encoder: Path) -> None:
    done = command(run, "--image-encoder", encoder, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    summary = json.loads(done.stdout)
    assert set(summary["metrics"]) == set(MEASURES)
    assert 0 < summary["metrics"]["input_similarity"] < 1
    assert Path(summary["report"]).is_file()
    record = json.loads(Path(summary["metrics_file"]).read_text())
    assert (record["image_encoder"], record["metrics"]) == (encoder.name, summary["metrics"])


def test_the_command_prints_the_metrics_and_the_path_of_the_report(run: Path) -> None:
    done = command(run)
    assert (done.returncode, done.stdout) == (0, "")
    lines = done.stderr.splitlines()
    assert len(lines) == len(WITHOUT_ENCODER) + 1
    assert re.fullmatch(r"  Worst difference outside the mask: +0 grey levels", lines[0])
    assert str(run / "report.html") in lines[-1]


def test_a_clip_of_one_frame_has_no_motion_to_measure(checkpoint: Path, scene: Scene, tmp_path: Path) -> None:
    first = slice(0, 1)
    loraedit.edit(scene.source[first], scene.edited_first, scene.mask[first], model=str(checkpoint), lora="none",
                  run=tmp_path / "run")  # fmt: skip
    evaluation = evaluate_run(tmp_path / "run")
    assert set(evaluation.metrics) == {"outside_difference", "changed_first"}
    assert "Training loss" not in evaluation.report.read_text()


# ---- refused ---------------------------------------------------------------------------------------------------------


def remove(name: str) -> Callable[[Path], None]:
    return lambda run: shutil.rmtree(run / name) if (run / name).is_dir() else (run / name).unlink()


def write(name: str, text: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        (folder / name).write_text(text)

    return spoil


def begin_again(run: Path) -> None:
    settings = json.loads((run / "settings.json").read_text())
    settings["settings"]["seed"] = 7
    (run / "settings.json").write_text(json.dumps(settings))


def lose_the_losses(run: Path) -> None:
    result = json.loads((run / "result.json").read_text())
    del result["losses"]
    (run / "result.json").write_text(json.dumps(result))


def paint_over(name: str) -> Callable[[Path], None]:
    return lambda run: write_image(run / name, np.zeros((36, 44, 3), np.uint8))


REFUSED: dict[str, tuple[Callable[[Path], None], str]] = {
    "no folder": (shutil.rmtree, "no folder"),
    "no run folder": (remove("settings.json"), "not a run folder"),
    "unfinished": (remove("result.json"), "not finished"),
    "started again": (begin_again, "started again"),
    "settings that are no JSON": (write("settings.json", "{"), "settings.json is not JSON"),
    "settings that are no object": (write("settings.json", "[]"), "settings.json holds no JSON object"),
    "result that is no JSON": (write("result.json", ""), "result.json is not JSON"),
    "result without losses": (lose_the_losses, "lacks the frame rate, the losses or the LoRAs"),
    "no frames": (remove("frames"), "There is no video file or folder of frames"),
    "a frame cut short": (write("frames/00001.png", "no picture"), "cannot be read as an image"),
    "a frame missing": (remove("frames/00001.png"), "frames/ is not what the edit wrote"),
    "another result": (paint_over("frames/00002.png"), "frames/ is not what the edit wrote"),
    "another source": (paint_over("source/00002.png"), "source/ is not what the edit was made from"),
    "another mask": (paint_over("mask/00002.png"), "mask/ is not what the edit was made from"),
    "another first frame": (paint_over("first_frame_edited.png"), "first_frame_edited.png is not what"),
    "no video": (remove("side_by_side.mp4"), "side_by_side.mp4 is missing"),
    "an empty sheet": (write("sheet.png", ""), "sheet.png is missing"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_an_unfinished_or_damaged_run_is_refused_and_nothing_is_written(run: Path, name: str) -> None:
    spoil, words = REFUSED[name]
    spoil(run)
    with pytest.raises(loraedit.InputError, match=re.escape(words)) as caught:
        evaluate_run(run)
    assert len(str(caught.value).splitlines()) == 1
    assert not (run / "report.html").exists()
    assert not (run / "metrics.json").exists()


def test_the_command_refuses_with_one_sentence_and_exit_code_2(tmp_path: Path) -> None:
    for place in (tmp_path / "nowhere", tmp_path, tmp_path / ("x" * 300)):
        done = command(place)
        assert (done.returncode, done.stdout) == (2, "")
        assert len(done.stderr.splitlines()) == 1
        assert done.stderr.startswith("loraedit: ")


def test_a_refusal_does_not_load_torch(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib, loraedit, loraedit.evaluate as e\n"
        f"try: e.evaluate_run(pathlib.Path({str(tmp_path)!r}))\n"
        "except loraedit.InputError: sys.exit(3 if 'torch' in sys.modules else 0)\n"
        "sys.exit(4)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def other_weights(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    del weights["visual_projection.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


BAD_ENCODERS: dict[str, tuple[Callable[[Path], None], str]] = {
    "no folder": (shutil.rmtree, "config.json cannot be read"),
    "no JSON": (write("config.json", "{"), "config.json cannot be read"),
    "no kind": (write("config.json", "{}"), "has no model_type"),
    "unknown kind": (write("config.json", '{"model_type": "toaster"}'), "cannot be loaded"),
    "no weights": (remove("model.safetensors"), "no .safetensors weights"),
    "damaged weights": (write("model.safetensors", "no weights"), "cannot be loaded"),
    "weights that are not all there": (other_weights, "lack visual_projection.weight"),
    "no image processor": (remove("preprocessor_config.json"), "it has no preprocessor_config.json"),
}


@pytest.mark.parametrize("name", BAD_ENCODERS)
def test_what_is_no_image_encoder_is_refused(run: Path, encoder: Path, tmp_path: Path, name: str) -> None:
    spoil, words = BAD_ENCODERS[name]
    folder = shutil.copytree(encoder, tmp_path / "encoder")
    spoil(folder)
    with pytest.raises(loraedit.ModelError, match=re.escape(words)):
        evaluate_run(run, folder)
    assert not (run / "report.html").exists()


# ---- the page --------------------------------------------------------------------------------------------------------


class Addresses(HTMLParser):
    """Collects the links of a page, and its elements."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.elements: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        self.found += [value or "" for name, value in attrs if name in {"src", "href", "srcset", "action", "poster"}]


def test_the_page_links_to_nothing_outside_itself(run: Path) -> None:
    text = evaluate_run(run).report.read_text()
    page = Addresses(text)
    assert len(page.found) == 4  # icon, video, sheet, loss
    assert all(address.startswith("data:") for address in page.found)
    assert {"script", "iframe", "object", "form"}.isdisjoint(page.elements)
    assert "url(" not in text
    assert "@import" not in text


def test_texts_from_outside_are_shown_as_texts() -> None:
    bad = '<script>alert(1)</script>"&'
    text = report_page(bad, {"side_by_side.mp4": b"v", "sheet.png": b"s"}, [Row(bad, bad, bad)], [Row(bad, bad)])
    assert "<script" not in text
    assert text.count("&lt;script&gt;alert(1)&lt;/script&gt;&quot;&amp;") == 6


def test_the_page_opens_in_a_browser_plays_its_video_and_requests_nothing(run: Path, tmp_path: Path) -> None:
    chromium = find_chromium()
    if chromium is None:
        pytest.skip("there is no Chromium on this machine; install one to test the report in a browser")
    report = evaluate_run(run).report
    with Page(chromium, tmp_path / "profile") as page:
        if not page.evaluate("""document.createElement('video').canPlayType('video/mp4; codecs="avc1.64001f"')"""):
            pytest.skip("this Chromium was built without H.264")
        page.call("Emulation.setDeviceMetricsOverride", width=390, height=800, deviceScaleFactor=1, mobile=True)
        page.open(report)
        page.wait_for("document.querySelector('video').readyState >= 2")
        page.wait_for("document.querySelector('video').currentTime > 0")
        before = page.evaluate("document.querySelector('video').currentTime")
        page.wait_for(f"document.querySelector('video').currentTime != {before}")
        assert page.evaluate("document.querySelector('video').videoWidth") == 2 * 44 + 8
        assert page.evaluate("[...document.images].every(image => image.naturalWidth > 0)")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        assert page.evaluate("document.title") == "LoRA-Edit report"
        grounds = []
        for scheme in ("light", "dark"):
            page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
            grounds.append(page.evaluate("getComputedStyle(document.body).backgroundColor"))
        assert grounds[0] != grounds[1]
        assert page.requests == [report.resolve().as_uri()]
        assert page.errors == []


def test_the_browser_would_have_seen_a_request(tmp_path: Path) -> None:
    chromium = find_chromium()
    if chromium is None:
        pytest.skip("there is no Chromium on this machine; install one to test the report in a browser")
    (tmp_path / "page.html").write_text('<img src="http://127.0.0.1:9/a.png">')
    with Page(chromium, tmp_path / "profile") as page:
        page.open(tmp_path / "page.html")
        assert "http://127.0.0.1:9/a.png" in page.requests
        assert page.errors
