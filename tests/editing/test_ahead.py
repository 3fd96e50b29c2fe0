"""Claims about working ahead: the results are the same, memory is bounded, and nothing outlives the edit."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scenes import make_scene
from toy_flow import ShiftEstimator

import loraedit
from loraedit.editing.ahead import Ahead, works_ahead
from loraedit.optical_flow.estimators import ESTIMATORS, register_estimator
from loraedit.propagation.paths import find_paths
from loraedit.settings import PAPER, make_settings
from loraedit.types import OnStep

SECONDS = 20.0
"""The longest time that a test waits for a thread."""


def ahead_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("loraedit-ahead")]


def until_stopped(began: threading.Event) -> Callable[[OnStep], None]:
    """Returns a computation that would take long, and that can be stopped between steps."""

    def make(on_step: OnStep) -> None:
        began.set()
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            on_step(1, 2)
            time.sleep(0.001)
        raise AssertionError("expected to be stopped")

    return make


def test_a_value_is_computed_before_it_is_asked_for() -> None:
    done = threading.Event()
    with Ahead(True) as ahead:
        ahead.start("key", lambda _: done.set() or threading.current_thread().name)
        assert done.wait(SECONDS)
        assert ahead.take("key", lambda _: pytest.fail("expected no second computation")).startswith("loraedit-ahead")
        assert ahead.take("key", lambda _: "again") == "again", "a value that was taken is not kept"


def test_nothing_starts_where_it_is_off() -> None:
    with Ahead(False) as ahead:
        ahead.start("key", lambda _: pytest.fail("expected nothing to start"))
        assert ahead.take("key", lambda _: "now") == "now"
        assert not ahead_threads()


def test_one_value_at_a_time_and_one_computation_of_it() -> None:
    first, calls = threading.Event(), list[str]()
    with Ahead(True) as ahead:
        ahead.start("first", until_stopped(first))
        assert first.wait(SECONDS)
        for _ in range(2):
            ahead.start("second", lambda _: calls.append("second"))  # drops the first
        ahead.take("second", lambda _: calls.append("here"))
        assert calls == ["second"]


def test_an_exception_comes_out_where_the_value_is_asked_for() -> None:
    def fail(_: OnStep) -> None:
        raise ValueError("broken")

    with Ahead(True) as ahead:
        ahead.start("key", fail)
        with pytest.raises(ValueError, match="broken"):
            ahead.take("key", fail)
        assert ahead.take("key", lambda _: 1) == 1


def start_and(then: Callable[[Ahead], None]) -> None:
    """Starts what would take long, and does something else meanwhile."""
    began = threading.Event()
    with Ahead(True) as ahead:
        ahead.start("key", until_stopped(began))
        assert began.wait(SECONDS)
        then(ahead)


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_an_error_elsewhere_ends_the_computation(error: type[BaseException]) -> None:
    def fail(_: Ahead) -> None:
        raise error

    with pytest.raises(error):
        start_and(fail)
    assert not ahead_threads()


def test_waiting_is_reported_and_an_interrupt_while_waiting_ends_the_computation() -> None:
    def interrupted(done: int, total: int) -> None:
        if (done, total) == (1, 2):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        start_and(lambda ahead: ahead.take("key", lambda _: None, interrupted))
    assert not ahead_threads()


@pytest.fixture
def toy() -> Iterator[str]:
    yield "toy"
    del ESTIMATORS["toy"]


def test_a_cpu_and_a_flow_estimator_on_the_device_leave_no_work_ahead(toy: str) -> None:
    gpu, cpu = torch.device("cuda"), torch.device("cpu")
    grey, carry = (make_settings({"model": "nano", "fill": fill}).resolved(PAPER) for fill in ("grey", "carry"))
    assert works_ahead(gpu, grey) and works_ahead(gpu, carry)
    assert not works_ahead(cpu, grey) and not works_ahead(cpu, carry)
    by_toy = carry.model_copy(update={"flow_estimator": toy})
    for on_cpu in (True, False):
        register_estimator(toy, ShiftEstimator, on_cpu=on_cpu)
        assert works_ahead(gpu, by_toy) is on_cpu
        assert works_ahead(gpu, by_toy.model_copy(update={"fill": "grey"}))


@pytest.mark.usefixtures("coarse_flow")
def test_an_edit_that_works_ahead_gives_the_same_bytes(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of several segments, those to learn from and those to generate are prepared ahead."""
    scene, threads = make_scene(9), list[str]()

    def recorded(*arguments: Any) -> Any:
        threads.append(threading.current_thread().name)
        return find_paths(*arguments)

    monkeypatch.setattr("loraedit.editing.prepared_segment.find_paths", recorded)
    clips, loras = [], []
    for ahead in (False, True):
        monkeypatch.setattr("loraedit.editing.pipeline.works_ahead", lambda *_, ahead=ahead: ahead)
        threads.clear()
        edited = loraedit.edit(
            scene.source, scene.edited_first, scene.mask, model=str(checkpoint),
            steps=1, sampling_steps=1, fill="carry", segment_frames=5, store="none", run=tmp_path / str(ahead),
        )  # fmt: skip
        assert edited.files is not None
        clips.append(edited.clip.frames)
        loras.append([path.read_bytes() for files in edited.files.loras for path in files.values()])
        assert any(name.startswith("loraedit-ahead") for name in threads) is ahead
    in_front = [name for name in threads if not name.startswith("loraedit-ahead")]
    segments = len(threads) // 3  # keys, training, generation
    assert len(in_front) == segments + 1, "expected only keys and the first segment to encode to be waited for"
    assert np.array_equal(*clips) and loras[0] == loras[1]
    assert not ahead_threads()
