"""Recipes are compared by plans of the same edit, and works that cost the same are measured once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from scenes import Scene

from loraedit.errors import InputError
from loraedit.families.card import NANO, ModelCard, read_card
from loraedit.families.skeleton import open_skeleton
from loraedit.job.prepare import prepare, prepare_recipes
from loraedit.job.request import EditRequest
from loraedit.planning import Cost, Shape, comparison, gpu_of, plan_each, work_of_job, work_of_size
from loraedit.planning.gpus import Gpu
from loraedit.settings import EditSettings, RecipeName, Resources, TrainSettings, make_settings, recipes_for
from loraedit.types import OnStep, Size, no_step

WAN = "wan2.1-i2v-14b-480p"
FRAME = Size(480, 832)
CPU = Gpu("a processor", 500, 1.0, is_host=True)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[Shape]:
    """Puts costs in proportion to the tokens in place of measurements; returns the shapes that were asked for."""
    shapes: list[Shape] = []

    def measure(
        card: ModelCard,
        shape: Shape,
        _train: TrainSettings,
        _resources: Resources,
        on_step: OnStep = no_step,
        **_: Any,
    ) -> dict[str, Cost]:
        shapes.append(shape)
        on_step(0, 2)
        on_step(1, 2)
        names = ("text_encode", "vae_encode", "train", "sample", "vae_decode")
        return {name: Cost(shape.tokens(card) * 10**9, 10**10, 10**9) for name in names}

    monkeypatch.setattr("loraedit.planning.plan.measure_cost", measure)
    monkeypatch.setattr("loraedit.planning.plan.lora_bytes", lambda *_: 10**6)
    return shapes


def planned(model: str, on_step: OnStep = no_step, **asked: Any) -> tuple[dict[RecipeName, Any], Any]:
    wanted = make_settings({"model": model, **asked})
    with open_skeleton(model) as card:
        works = {}
        for name in recipes_for(wanted.recipe, card.recipe):
            works[name] = work_of_size(card, wanted.model_copy(update={"recipe": name}), FRAME, 49)
        plans = plan_each(card, model, FRAME, works, None, wanted.resources, on_step=on_step)
    rows = comparison(plans, CPU, gpu_of(next(iter(plans.values()))))
    return rows, plans


@pytest.mark.usefixtures("measured")
def test_the_recipes_differ_in_steps_size_and_compute_and_paper_is_the_measure() -> None:
    rows, plans = planned(WAN)
    assert list(rows) == ["paper", "fast", "propagate"]
    assert [row["train_steps"] for row in rows.values()] == [100, 60, 25]
    assert [row["sampling_forwards"] for row in rows.values()] == [60, 40, 40]
    assert [row["may_stop_early"] for row in rows.values()] == [False, True, False]
    assert rows["paper"]["paper_share"] == 1
    assert rows["fast"]["paper_share"] == plans["fast"].total_flops / plans["paper"].total_flops < 0.4
    height, width = (int(side) for side in rows["fast"]["window"].split("x"))
    assert height * width == pytest.approx(FRAME.height * FRAME.width / 2, rel=0.03)


@pytest.mark.usefixtures("measured")
def test_options_hold_for_every_recipe() -> None:
    rows, _ = planned(WAN, steps=7, area=1.0, check_every=0)
    assert {(row["train_steps"], row["may_stop_early"], row["window"]) for row in rows.values()} == {
        (7, False, "832x480")
    }


def test_recipes_of_one_size_share_their_measurement_in_the_count_of_progress(measured: list[Shape]) -> None:
    events: list[tuple[int, int]] = []
    planned(WAN, lambda done, total: events.append((done, total)))
    assert len(set(measured)) == 2
    assert events == [(0, 3), (1, 3), (2, 3), (2, 4), (3, 4), (4, 4)]


def test_a_model_has_a_row_of_its_own_only_if_its_recipe_is_another() -> None:
    nano = read_card(NANO).recipe
    assert recipes_for("model", nano) == ["model", "paper", "fast", "propagate"]
    assert recipes_for("fast", nano) == ["fast", "model", "paper", "propagate"]
    with open_skeleton(WAN) as card:
        assert recipes_for("model", card.recipe) == ["paper", "fast", "propagate"]


@pytest.mark.usefixtures("measured")
def test_a_processor_that_would_take_days_is_too_slow_and_a_gpu_is_not() -> None:
    _, plans = planned(WAN)
    slow, quick = (Gpu("one", 500, speed, is_host=True) for speed in (1e-3, 1e3))
    plan = plans["paper"]
    assert [plan.runs_on(each) for each in (slow, quick)] == ["too slow", "yes"]
    assert plan.runs_on(Gpu("one", 500, 1e-3)) == "yes"
    assert plan.runs_on(Gpu("small", 8, 1e3)) == "no"


def request(scene: Scene, references: dict[int, Any], **asked: Any) -> EditRequest:
    return EditRequest(scene.source, scene.edited_first, None, references, settings=make_settings(asked))


def test_a_clip_is_tracked_once_and_each_recipe_plans_what_it_would_do_alone(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    from loraedit.job import edit_mask

    tracked, track = [], edit_mask.mask_from_edit
    monkeypatch.setattr(edit_mask, "mask_from_edit", lambda *args: tracked.append(1) or track(*args))
    later = scene.source[3].copy()
    later[10:22, 14:26] = (40, 60, 220)
    last = scene.source[4].copy()
    last[10:22, 16:28] = (60, 60, 220)
    asked, card = request(scene, {3: later, 4: last}), read_card(NANO)
    jobs = prepare_recipes(asked, recipes_for("model", card.recipe), card)
    assert len(tracked) == 1
    works = {}
    for name, job in jobs.items():
        assert not isinstance(job, InputError)
        alone = prepare(request(scene, dict(asked.references), recipe=name), card=card)
        works[name] = work_of_job(job)
        assert works[name] == work_of_job(alone)
    # one course of 10 (1 + 9 * 2) / 10 epochs after the source, and two courses of 20 and 10 steps in nano's own recipe
    assert works["paper"].train_steps == 30 + 38
    assert works["model"].train_steps == 30 + 20 + 10


def test_a_recipe_that_is_refused_says_why_and_the_one_asked_for_raises(scene: Scene) -> None:
    card, low = read_card(NANO), {"rank": 2}  # nano's prior has rank 16
    jobs = prepare_recipes(request(scene, {}, recipe="paper", **low), ["paper", "model"], card)
    assert not isinstance(jobs["paper"], InputError)
    assert isinstance(jobs["model"], InputError) and "prior" in str(jobs["model"])
    with pytest.raises(InputError, match="prior"):
        prepare_recipes(request(scene, {}, **low), ["model", "paper"], card)


def test_a_size_is_planned_as_an_edit_works_at_the_area_of_the_model() -> None:
    card = read_card(NANO)
    window = work_of_size(card, make_settings({"area": 0.5}), FRAME, 9).shape.size
    assert window.height * window.width == pytest.approx(card.settings.area_px / 2, rel=0.2)


def test_a_distilled_lora_is_planned_in_its_few_steps(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    save_file({}, tmp_path / "lightx2v-4steps.safetensors")
    wanted = EditSettings(model=WAN, extra_lora=(str(tmp_path / "lightx2v-4steps.safetensors"),))
    with open_skeleton(WAN) as card:
        assert work_of_size(card, wanted, FRAME, 49).passes == 4
