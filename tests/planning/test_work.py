"""The work that is planned is the work that a run does."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.models.transformers.transformer_wan import WanTransformerBlock
from scenes import Scene, make_scene
from tiny_cards import write_card
from torch import nn

import loraedit
from loraedit.editing import run_edit
from loraedit.families.card import read_card
from loraedit.job.edits import EditObject
from loraedit.job.prepare import prepare
from loraedit.job.request import EditRequest
from loraedit.planning import work_of, work_of_job
from loraedit.settings import make_settings
from loraedit.types import Size


@pytest.mark.parametrize("strength", [1.0, 0.8])
@pytest.mark.usefixtures("coarse_flow")
def test_what_is_planned_is_what_is_done(checkpoints: dict[str, Path], scene: Scene, strength: float) -> None:
    """The model has two experts; a strength below their boundary still takes both."""
    model, done = checkpoints["wan22"], dict[str, int]()

    def progress(phase: str, _done: int, total: int, _told: str) -> None:
        done[phase] = max(total, done.get(phase, 0))

    asked: dict[str, Any] = {"steps": 2, "sampling_steps": 6, "fill": "carry", "strength": strength}
    made = loraedit.edit(scene.source, scene.edited_first, scene.mask, model=str(model), progress=progress, **asked)
    card = read_card(model)
    settings = make_settings(asked).resolved(card.recipe)
    work = work_of(card, settings, card.working_size(Size(36, 44), settings), [len(scene.source)], 0)
    assert (work.passes, 2 * len(work.uses.trained)) == (done["sample"], len(made.losses))
    assert work.uses.trained == work.uses.experts == ("transformer", "transformer_2")


def test_every_object_is_planned_with_a_training_of_its_own(checkpoint: Path, scene: Scene) -> None:
    corner, edited = np.zeros_like(scene.mask), scene.edited_first.copy()
    corner[:, 26:, 30:], edited[26:, 30:] = True, 255
    last, below = scene.source[3].copy(), scene.source[4].copy()
    last[12:18, 18:22], below[30:, 34:] = 0, 0
    objects = [EditObject("square", scene.mask, {3: last}), EditObject("corner", corner, {4: below})]
    settings = make_settings({"model": str(checkpoint), "recipe": "paper", "steps": 2, "reference_steps": 3})
    job = prepare(EditRequest(scene.source, edited, objects=objects, settings=settings))
    work = work_of_job(job)
    assert work.train_steps == len(run_edit(job).losses) == 2 * (2 + 3)
    assert (work.samples, work.reference_samples, work.segments) == (2, 2, 2)


def test_the_tokens_of_a_plan_are_those_of_the_run_and_a_quarter_of_the_frame_takes_a_quarter_of_them(
    checkpoint: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(checkpoint, tmp_path / "model")
    write_card(folder, area_px=96 * 128, least_area_px=256)
    scene = make_scene(5, 96, 128)
    mask = np.zeros_like(scene.mask)
    mask[:, 4:36, 4:46] = True
    tokens = {}
    for crop in ("auto", "off"):
        asked = make_settings({"model": str(folder), "steps": 1, "sampling_steps": 1, "crop": crop, "context": 0.2})
        job = prepare(EditRequest(scene.source, scene.edited_first, mask, settings=asked))
        with tokens_seen() as seen:
            run_edit(job)
        tokens[crop] = work_of_job(job).shape.tokens(job.card)
        assert set(seen) == {(True, tokens[crop]), (False, tokens[crop])}  # in training and in sampling
    assert tokens["off"] == 4 * tokens["auto"]


@contextmanager
def tokens_seen() -> Iterator[list[tuple[bool, int]]]:
    """Collects the tokens that each block of a Wan transformer is given, and whether that was in training."""
    seen: list[tuple[bool, int]] = []

    def see(module: nn.Module, given: tuple[Any, ...]) -> None:
        if isinstance(module, WanTransformerBlock):
            seen.append((torch.is_grad_enabled(), given[0].shape[1]))

    handle = nn.modules.module.register_module_forward_pre_hook(see)
    yield seen
    handle.remove()
