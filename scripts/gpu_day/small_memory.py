"""Training within the memory of a small GPU: the real training loop under a limit, and quantised weights."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any
from unittest import mock

import torch

from loraedit.families import open_family
from loraedit.planning import describe_resources
from loraedit.planning.host import process_bytes
from loraedit.runtime.memory import checkpoint_bytes, weights_held
from loraedit.settings import Resources
from loraedit.training import Stage as TrainingStage
from loraedit.training import loop
from loraedit.training.loop import take_step
from scripts.gpu_day.bench import Bench, free, now
from scripts.gpu_day.measuring import Peak, cosine
from scripts.gpu_day.plans import KEPT
from scripts.gpu_day.random_weights import random_sample, random_transformer
from scripts.gpu_day.stage import Finding, Stage, alike, near, told
from scripts.gpu_day.steps import take_steps

__all__ = ["QUANTISED_STAGE", "RUNG_STAGE"]

LEAST = {"fp8": 0.99, "int8": 0.99, "nf4": 0.97}
"""Lowest cosine similarity of the gradients with those of full weights."""


def _rung(bench: Bench) -> Iterator[Finding]:
    scale = bench.scale
    resources = bench.plans.fitting(scale.short, scale.small, scale.budget)
    planned = bench.plans.of(scale.short, scale.small, resources)["train"]
    before = process_bytes()
    with _limited(bench):
        step_s, peak_bytes, pinned = _trained(bench, resources)
    yield near(f"training loop with {describe_resources(resources)}: peak", peak_bytes, planned.peak_bytes)
    yield told("host memory in buffers for the device", pinned / 1e9, "GB", planned.buffer_bytes / 1e9)
    expected = (before + planned.resident_bytes) / 1e9 if bench.on_gpu else None  # a CPU has the rest there too
    yield told("host memory of the process, at its peak", _resident_bytes() / 1e9, "GB", expected)
    if bench.on_gpu:
        reserved = torch.cuda.max_memory_reserved(bench.device)
        yield told("device memory that torch reserved", reserved / 1e9, "GB", (scale.budget or 0) / 1e9)
    free()
    kept, _, _ = _trained(bench, resources.model_copy(update={"swap_blocks": 0}))
    yield told("time of a step with swapping, against without", step_s / kept, note=f"{step_s:.2f} s and {kept:.2f} s")


def _trained(bench: Bench, resources: Resources) -> tuple[float, int, int]:
    """Runs the training loop; returns the time of its last step, and the peaks of the device and of host buffers."""
    family, settings = open_family(bench.card, resources), bench.training.model_copy(update={"steps": 2})
    transformer = random_transformer(bench, resources, keep_on=torch.device("cpu"))
    sample = random_sample(bench, bench.scale.short, bench.scale.small).to(torch.device("cpu"))
    stage, state = TrainingStage([sample], [1]), bench.folder / f"state-{resources.swap_blocks}"
    seconds: list[float] = []

    def timed(*args: Any) -> float:
        start = now(bench.device)
        loss = take_step(*args)
        seconds.append(now(bench.device) - start)
        return loss

    with mock.patch.object(loop, "take_step", timed), Peak(bench.device, transformer) as peak:
        loop.train(family, family.experts[0], transformer, stage, settings, state, device=bench.device)
    host = weights_held(transformer).host + checkpoint_bytes(transformer)
    return seconds[-1], peak.bytes, host


@contextmanager
def _limited(bench: Bench) -> Iterator[None]:
    """Lets torch take no more of the device than a small GPU has."""
    if not bench.on_gpu or bench.scale.budget is None:
        yield
        return
    whole = torch.cuda.get_device_properties(bench.device).total_memory
    torch.cuda.set_per_process_memory_fraction(min(bench.scale.budget / whole, 1.0), bench.device)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, bench.device)


def _resident_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _plan_rung(bench: Bench) -> None:
    scale = bench.scale
    bench.plans.of(scale.short, scale.small, bench.plans.fitting(scale.short, scale.small, scale.budget))


# ---- quantised weights -----------------------------------------------------------------------------------------------


def _quantised(bench: Bench) -> Iterator[Finding]:
    scale, full = bench.scale, take_steps(bench, KEPT, bench.scale.few, 1)
    free()
    for kind, least in LEAST.items():
        if kind == "nf4" and find_spec("bitsandbytes") is None:
            yield told(f"{kind} weights", None, note="bitsandbytes is not installed")
            continue
        resources = _held_as(kind)
        steps = take_steps(bench, resources, scale.few, 1)
        planned = bench.plans.of(scale.few, scale.small, resources)["train"]
        yield near(f"{kind} weights: peak", steps.peak_bytes, planned.peak_bytes)
        yield alike(f"{kind} weights: gradients against full ones", cosine(steps.gradients, full.gradients), least)
        yield told(f"{kind} weights: time of a step against full ones", steps.step_s / full.step_s)
        free()


def _held_as(kind: str) -> Resources:
    return Resources.model_validate({**KEPT.model_dump(), "weights": kind})


def _plan_quantised(bench: Bench) -> None:
    for kind in LEAST:
        if kind != "nf4" or find_spec("bitsandbytes"):
            bench.plans.of(bench.scale.few, bench.scale.small, _held_as(kind))


RUNG_STAGE = Stage(
    "small-gpu", 150, "the training loop with the memory measures that fit 24 GB, and torch limited to that",
    "the peak is within 10 % of the plan", _rung, _plan_rung,
)  # fmt: skip
QUANTISED_STAGE = Stage(
    "quantised", 90, "training steps of a few frames with fp8, int8 and nf4 weights, against full ones",
    "each peak is within 10 % of its plan; the gradients' cosine is above 0.99 (nf4: 0.97)", _quantised,
    _plan_quantised,
)  # fmt: skip
