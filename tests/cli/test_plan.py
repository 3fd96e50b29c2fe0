"""``loraedit plan`` prints tables that fit 80 columns, with numbers that people read."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from loraedit.cli.main import app
from loraedit.cli.plan_tables import amount, estimate, show_plan
from loraedit.errors import InputError


@pytest.fixture(autouse=True, scope="module")
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


def run(*arguments: str) -> Any:
    nano = ("plan", "--model", "nano", "--size", "64x64", "--frames", "9")
    return CliRunner().invoke(app, [*nano, *arguments], env={"COLUMNS": "80"})


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.001, "< 0.01"), (0.04, "0.04"), (9.999, "10.0"), (49.28, "49.3"), (99.97, "100"), (3040, "3,040")],
)
def test_an_amount_is_never_a_power_of_ten(value: float, text: str) -> None:
    assert amount(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.004, "< 1 s"), (40, "40 s"), (90, "2 min"), (1970, "33 min"), (24_000, "6.7 h"), (1e7, "116 days")],
)
def test_an_estimate_is_rounded_to_what_it_is_worth(seconds: float, text: str) -> None:
    assert estimate(seconds) == text


def test_a_plan_names_its_recipe_and_how_to_compare() -> None:
    text = run().stdout
    assert text.startswith("nano, recipe model: 9 frames at 64x64")
    assert "--compare-recipes shows" in text and "Of paper" not in text
    assert "Times leave out loading, optical flow, compositing and previews." in text
    assert re.search(r"\de[+-]\d", text) is None


def test_the_comparison_marks_the_recipe_asked_for_and_says_when_to_use_each() -> None:
    text = run("--compare-recipes", "--recipe", "fast").stdout
    table = text.partition("Of paper")[2]
    rows = re.findall(r"^ (model|paper|fast \*|propagate) +(up to)?", table, re.MULTILINE)
    assert rows == [("model", ""), ("paper", ""), ("fast *", "up to"), ("propagate", "")]
    assert "fast *: The published method at half the area" in text and "training stops earlier" in text
    assert max(len(line) for line in table.split("model:")[0].splitlines()) <= 80


def test_a_refused_recipe_is_listed_with_its_reason_and_the_one_asked_for_refuses_the_plan() -> None:
    found = json.loads(run("--compare-recipes", "--recipe", "paper", "--rank", "2", "--json").stdout)
    rows = {row["recipe"]: row for row in found["recipes"]}
    assert found["recipe"] == "paper" and "prior" in rows["model"]["refused"] and rows["fast"]["paper_share"] < 1
    assert "Refused: The prior LoRA" in run("--compare-recipes", "--recipe", "paper", "--rank", "2").stdout
    refused = run("--rank", "2").exception
    assert isinstance(refused, InputError) and "prior" in str(refused)


def test_an_extra_lora_that_is_missing_is_refused_without_a_clip_too(tmp_path: Path) -> None:
    done = run("--extra-lora", str(tmp_path / "none.safetensors"))
    assert "There is no LoRA file" in str(done.exception)


def test_a_plan_for_another_gpu_says_what_this_machines_host_memory_would_force(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def planned(host_bytes: int, *options: str) -> tuple[dict[str, Any], str]:
        monkeypatch.setattr("loraedit.planning.this_host_bytes", lambda: host_bytes)
        found, text = json.loads(run("--vram", "12GB", "--json", *options).stdout), StringIO()
        show_plan(Console(file=text, width=80), found)
        return found, " ".join(text.getvalue().split())

    monkeypatch.setattr("loraedit.planning.plan.process_bytes", lambda: 0)
    plan, text = planned(10**12)
    assert plan["on_this_host"] is None and "This machine has less" not in text
    reloading = planned(10**12, "--reload-weights")[0]["host_peak_bytes"]
    scarce, text = planned(reloading)
    assert scarce["resources"] == plan["resources"] and scarce["host_limit_bytes"] is None
    assert scarce["on_this_host"] == {
        "host_limit_bytes": reloading,
        "fits": True,
        "resources": {**plan["resources"], "reload_weights": True},
        "remedy": "",
    }
    assert f"This machine has less host memory: {amount(reloading / 1e9)} GB are available. An edit here would" in text
    assert "would use: reload weights." in text
    refused, text = planned(1)
    assert refused["on_this_host"]["remedy"] in text and not refused["on_this_host"]["fits"]
