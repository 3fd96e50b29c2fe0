"""The stages for a GPU work on a CPU at tiny size, cost one stage at most when they fail, and end in a page."""

from __future__ import annotations

import json
import math
import multiprocessing
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from loraedit.planning import Cost
from loraedit.types import Size
from scripts.gpu_day.bench import TINY, Bench, open_bench
from scripts.gpu_day.page import page
from scripts.gpu_day.refit import refit
from scripts.gpu_day.results import FINISHED, append, failures, finished, latest, read
from scripts.gpu_day.runner import Request, record, run_each
from scripts.gpu_day.stage import Finding, Stage, alike, near
from scripts.gpu_day.stages import STAGES

TINIEST = replace(
    TINY,
    long=5,
    small=Size(32, 32),
    large=Size(32, 32),
    shrunk={**TINY.shrunk, "transformer": {**TINY.shrunk["transformer"], "num_layers": 2}},
)
ROOT = Path(__file__).parents[2]
CARD = "NVIDIA H100 80GB HBM3"


@pytest.fixture
def request_(tmp_path: Path) -> Request:
    return Request("tiny", "cpu", tmp_path / "results.jsonl", tmp_path / "plans.json")


@pytest.fixture
def bench(request_: Request, tmp_path: Path) -> Iterator[Bench]:
    with open_bench(TINIEST, "cpu", request_.planned, tmp_path) as opened:
        yield opened


def lines_of(name: str, bench: Bench, request: Request) -> list[dict[str, Any]]:
    record(STAGES[name], bench, request)
    lines = read(request.results, "tiny")
    assert [line["measure"] for line in lines][-1] == FINISHED, lines[-1]["note"]
    return lines


def test_training_under_a_limit_takes_the_memory_that_was_planned(bench: Bench, request_: Request) -> None:
    lines = lines_of("small-gpu", bench, request_)
    (peak,) = [line for line in lines if "peak" in line["measure"] and line["planned"] and line["unit"] == "GB"]
    assert "swapped" in peak["measure"] and peak["holds"] is True
    assert peak["value"] == pytest.approx(peak["planned"], rel=0.02)
    (buffers,) = [line for line in lines if "buffers" in line["measure"]]
    assert buffers["value"] == buffers["planned"] > 0


@pytest.mark.parametrize("name", [name for name in STAGES if name not in ("small-gpu", "compiled")])
def test_a_stage_measures_what_it_should(
    name: str, bench: Bench, request_: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compiled blocks take too long to trace; ``--tiny`` itself runs them too."""
    phases = ("text_encode", "vae_encode", "train", "sample", "vae_decode")
    monkeypatch.setattr("scripts.gpu_day.plans.measure_cost", lambda *_: {each: Cost(10**9, 1, 1) for each in phases})
    lines = lines_of(name, bench, request_)
    measured = [line for line in lines if line["value"] is not None]
    assert all(math.isfinite(line["value"]) and line["value"] >= 0 for line in measured)
    assert all(line["card"] == "cpu" and line["torch"] for line in lines)
    wrong = [line["measure"] for line in lines if line["holds"] is False]
    assert all("peak" in measure for measure in wrong)  # the plans above are made up
    assert len(measured) >= 3


def fake(*findings: Finding, error: Exception | None = None) -> Stage:
    def run(_: Bench) -> Iterator[Finding]:
        yield from findings
        if error is not None:
            raise error

    return Stage("fake", 1, "nothing", "never", run)


def test_what_was_measured_before_a_failure_is_kept(bench: Bench, request_: Request) -> None:
    record(fake(alike("gradients", 0.999), error=RuntimeError("out of luck")), bench, request_)
    first, failed = read(request_.results, "tiny")
    assert first["holds"] is True and failed["holds"] is False and "out of luck" in failed["note"]
    assert finished(read(request_.results, "tiny")) == set()
    record(fake(alike("gradients", 0.999)), bench, request_)
    lines = read(request_.results, "tiny")
    assert finished(lines) == {"fake"} and failures(lines, ["fake"]) == []


def test_a_figure_holds_within_its_limit_only() -> None:
    assert near("peak", 110, 100).holds and near("peak", 90, 100).holds
    assert not near("peak", 111, 100).holds and not near("peak", 89, 100).holds
    assert alike("gradients", 0.991).holds and not alike("gradients", 0.98).holds


def end_badly(name: str, request: Request) -> None:
    if name == "nano":
        raise SystemExit(3)
    if name == "training":
        time.sleep(60)
    append(request.results, name, Finding(FINISHED, 1.0), card="cpu", scale="tiny")


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_stage_that_hangs_or_dies_costs_no_other(request_: Request, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scripts.gpu_day.runner.SERVER", multiprocessing.get_context("fork"))  # starts at once
    monkeypatch.setitem(STAGES, "training", replace(STAGES["training"], limit_s=0.3))
    assert run_each(["nano", "training", "vae"], request_, 60, end_badly) == []
    dead, stopped, last = read(request_.results, "tiny")
    assert "code 3" in dead["note"] and "stopped after" in stopped["note"] and last["measure"] == FINISHED
    assert run_each(["nano", "vae"], request_, 0, end_badly) == ["nano", "vae"]


def measured(stage: str, measure: str, value: float, **facts: Any) -> dict[str, Any]:
    usual = {"unit": "", "planned": None, "holds": None, "note": "", "card": CARD, "scale": "true", "torch": "2.11.0"}
    return {"stage": stage, "measure": measure, "value": value, **usual, **facts}


def test_the_page_in_the_docs_is_the_one_of_the_results_so_far() -> None:
    results = ROOT / "docs/gpu.jsonl"
    assert page(list(STAGES.values()), read(results, "true")) == (ROOT / "docs/gpu.md").read_text(encoding="utf-8")
    assert results.exists() or "No GPU has run this yet" in (ROOT / "docs/gpu.md").read_text(encoding="utf-8")


def test_the_page_names_the_card_its_figures_and_what_does_not_hold() -> None:
    lines = [
        measured("training", "49 frames: peak", 60.0, unit="GB", planned=49.3, holds=False),
        measured("nano", "gradients", 0.9999, holds=True, note="above 0.99"),
    ]
    text = page(list(STAGES.values()), lines)
    assert f"Measured on {CARD}." in text
    assert "| `training` | 49 frames: peak | 60 GB | 49.3 GB | **no** |" in text
    assert text.index("| `nano` | gradients") < text.index("| `training` | 49 frames")
    assert "Not run: " in text and "`sampling`" in text


def test_the_measured_speed_becomes_the_efficiency_of_the_card(tmp_path: Path) -> None:
    path = tmp_path / "efficiency.json"
    path.write_text(json.dumps({"RTX 4090": {"share": 0.577, "source": "published", "basis": ""}}))
    lines = [
        measured("training", "49 frames: speed of training", 395.76),
        measured("training", "49 frames: speed of training", 10.0, card="cpu"),
        measured("long-clip", "81 frames: speed of training", 1.0),
    ]
    told = refit(lines, path)
    entries = json.loads(path.read_text())
    assert entries["H100 SXM"]["share"] == 0.4 and entries["H100 SXM"]["source"] == "measured"
    assert set(entries) == {"RTX 4090", "H100 SXM"}
    assert any("40.0%" in each for each in told) and any("cpu is not in the list" in each for each in told)


def test_only_the_latest_of_each_measure_counts() -> None:
    lines = [measured("nano", "gradients", 0.5, holds=False), measured("nano", "gradients", 0.999, holds=True)]
    assert [line["value"] for line in latest(lines)] == [0.999]
    assert failures(lines, ["nano"]) == []
