"""A plan counts the texts, pictures and clips that a run encodes, each once."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from scenes import Scene

from loraedit.editing import run_edit
from loraedit.families.card import read_card
from loraedit.job.edits import EditObject
from loraedit.job.prepare import prepare
from loraedit.job.request import EditRequest
from loraedit.planning import Cost, make_plan, work_of, work_of_job
from loraedit.planning.encodings import Encodings
from loraedit.settings import make_settings
from loraedit.types import Size

TEXTS = {"prompt": "a red coat", "source_prompt": "a coat", "negative_prompt": "rain"}


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        ("wan21", {"fill": "grey", "guidance": 3.0}),
        ("wan21", {"fill": "carry", "colour_variants": 2, "guidance": 1.0}),
        ("hunyuan, channels", {"fill": "grey"}),
    ],
)
@pytest.mark.usefixtures("coarse_flow")
def test_what_is_planned_to_be_encoded_is_what_a_run_encodes(
    checkpoints: dict[str, Path],
    others: dict[str, Path],
    scene: Scene,
    tmp_path: Path,
    name: str,
    asked: dict[str, Any],
) -> None:
    later = scene.source[3].copy()
    later[10:22, 14:26] = (40, 60, 220)
    model = {**checkpoints, **others}[name]
    own = {"model": str(model), "steps": 1, "reference_steps": 1, "sampling_steps": 1, "preview": False, "prior": False}
    settings = make_settings({**own, **TEXTS, **asked})
    job = prepare(
        EditRequest(scene.source, scene.edited_first, scene.mask, {3: later}, settings=settings, run=tmp_path)
    )
    run_edit(job)
    events = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    done = Counter(event["what"] for event in events if event["event"] == "encoded")
    planned = work_of_job(job).encodings
    assert done["prompt"] == len(planned.texts)
    assert done["prompt and picture"] == planned.texts_with_picture
    assert done["picture"] == planned.pictures
    assert done["clip"] == planned.clips + planned.frames
    assert planned.frames > 0


def test_objects_share_their_texts_and_have_pixels_of_their_own(checkpoint: Path, scene: Scene) -> None:
    settings = make_settings({"model": str(checkpoint), "steps": 1, **TEXTS})
    halves = scene.mask.copy(), scene.mask.copy()
    halves[0][:, :18], halves[1][:, 18:] = False, False
    works = []
    for masks in (halves[:1], halves):
        objects = [EditObject(str(number), mask) for number, mask in enumerate(masks)]
        works.append(
            work_of_job(prepare(EditRequest(scene.source, scene.edited_first, objects=objects, settings=settings)))
        )
    one, two = (work.encodings for work in works)
    assert two.texts == one.texts and (two.clips, two.decoded) == (2 * one.clips, 2 * one.decoded)


def test_a_single_frame_costs_its_share_of_a_clip(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("text_encode", "vae_encode", "train", "sample", "vae_decode")
    costs = {name: Cost(10 ** (3 * place), 1, 1) for place, name in enumerate(names)}
    monkeypatch.setattr("loraedit.planning.plan.measure_cost", lambda *_, **__: costs)
    card, size = read_card(checkpoint), Size(64, 64)
    settings = make_settings({"steps": 2, "sampling_steps": 3, "guidance": 1.0, "lora": "none"}).resolved(card.recipe)
    work = work_of(card, settings, size, [5, 5], 0)
    assert work.encodings == Encodings(texts=frozenset({"edited: "}), clips=2, decoded=2)
    work = replace(work, encodings=Encodings(frozenset("ab"), clips=2, frames=3, decoded=4))
    plan = make_plan(card, "a", size, work, None, lambda chosen: chosen)
    assert work.shape.frames == 5
    assert plan.total_flops == 2 * 1 + 2_600 + 6 * 10**9 + 4 * 10**12
