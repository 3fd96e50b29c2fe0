"""The log of a run shows it: every component is loaded once, and every text, picture and clip is encoded once."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from parity import CPU, moving
from scenes import Scene, make_scene
from tiny import save_tiny_wan
from tiny_cards import write_card

import loraedit
from loraedit.diffusion.samples import Guide, motion_sample
from loraedit.editing.cache import StageCache
from loraedit.editing.context import open_context
from loraedit.editing.reporter import Reporter
from loraedit.editing.result import EditResult
from loraedit.job.prepare import prepare
from loraedit.job.request import EditRequest
from loraedit.settings import Resources, make_settings
from loraedit.storage.lora_store import open_store
from loraedit.types import no_progress

Event = dict[str, Any]

STEPS = 6
"""Sampling steps enough for both experts."""


def log_of(run: Path) -> list[Event]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def loaded(events: Iterable[Event]) -> list[str]:
    """Returns the components that were loaded, in order."""
    return [name for event in events if event["event"] == "loaded" for name in event["components"]]


def encoded(events: Iterable[Event]) -> list[tuple[str, str]]:
    """Returns what was encoded, with its key."""
    return [(event["what"], event["key"]) for event in events if event["event"] == "encoded"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Writes a model with two experts and an image encoder."""
    return write_card(save_tiny_wan(tmp_path_factory.mktemp("models") / "two", image_encoder=True, two_experts=True))


def edit(scene: Scene, model: Path, run: Path, **settings: Any) -> EditResult:
    """Edits two segments with a reference, guidance and a preview, in two courses for each expert."""
    return loraedit.edit(
        scene.source, scene.edited_first, scene.mask, references={4: scene.source[4] // 2}, model=str(model), run=run,
        prompt="a red coat", source_prompt="a coat", negative_prompt="rain", guidance=3.0, preview=True,
        steps=1, reference_steps=1, sampling_steps=STEPS, colour_variants=2, segment_frames=5, rank=1, **settings,
    )  # fmt: skip


def test_each_component_is_loaded_once_and_nothing_is_encoded_twice(model: Path, tmp_path: Path) -> None:
    scene, run = make_scene(frames=7), tmp_path / "run"
    first = edit(scene, model, run)
    events = log_of(run)
    parts = ["text_encoder", "image_encoder", "vae", "transformer", "transformer_2"]
    assert loaded(events) == parts, "the encoders are gone before a transformer loads"
    assert max(Counter(encoded(events)).values()) == 1
    kinds = Counter(what for what, _ in encoded(events))
    assert kinds["prompt"] == 3  # of source, edit and negative prompt
    assert kinds["picture"] == 4  # the source's first frame, a colour variant of it, the edited one, the reference's
    assert all(event["seconds"] >= 0 and event["bytes"] > 0 for event in events if event["event"] == "loaded")

    again = edit(scene, model, run)
    assert (set(loaded(log_of(run)[len(events) :])), encoded(log_of(run)[len(events) :])) == ({"vae"}, [])
    reloaded = edit(scene, model, tmp_path / "reloaded", reload_weights=True)
    counts = Counter(loaded(log_of(tmp_path / "reloaded")))
    assert counts == {"text_encoder": 1, "image_encoder": 1, "vae": 1, "transformer": 5, "transformer_2": 5}
    for other in (again, reloaded):
        assert np.array_equal(other.clip.frames, first.clip.frames)
        assert [file.read_bytes() for file in other.lora_files] == [file.read_bytes() for file in first.lora_files]


def test_a_clip_that_several_samples_have_is_encoded_once(checkpoint: Path, scene: Scene, tmp_path: Path) -> None:
    settings = make_settings({"model": str(checkpoint), "device": "cpu"})
    job = prepare(EditRequest(scene.source, scene.edited_first, scene.mask, settings=settings))
    context = open_context(job, tmp_path, CPU, Resources(), open_store("none"))
    source, mask = moving(5, 32, 48), np.ones((5, 32, 48), np.bool_)
    grey, guided = (motion_sample(source, mask, "", guide) for guide in (None, Guide(-source, mask)))
    StageCache(context, Reporter(tmp_path, no_progress)).encoded([grey, guided])
    StageCache(context, Reporter(tmp_path, no_progress)).encoded([motion_sample(source, ~mask, "")])
    assert Counter(what for what, _ in encoded(log_of(tmp_path)))["clip"] == 3  # the source, and the two conditions


def test_encodings_depend_on_nothing_of_the_transformer(checkpoint: Path, scene: Scene, tmp_path: Path) -> None:
    settings = make_settings({"model": str(checkpoint), "device": "cpu"})
    job = prepare(EditRequest(scene.source, scene.edited_first, scene.mask, settings=settings))
    sample = motion_sample(moving(5, 32, 48), np.ones((5, 32, 48), np.bool_), "a coat")
    counts = []
    for resources in (Resources(), Resources(weights="int8", attention="native"), Resources(tile_vae=True)):
        context = open_context(job, tmp_path, CPU, resources, open_store("none"))
        StageCache(context, Reporter(tmp_path, no_progress)).encoded([sample])
        counts.append(Counter(what for what, _ in encoded(log_of(tmp_path))))
    assert counts[0] == counts[1], "other weights read the same embeddings and clips"
    assert counts[2]["clip"] == 2 * counts[0]["clip"] and counts[2]["prompt"] == counts[0]["prompt"]


def test_a_lora_and_latents_belong_to_their_weights_and_attention(
    checkpoint: Path, scene: Scene, tmp_path: Path
) -> None:
    def reused(**settings: Any) -> list[str]:
        return loraedit.edit(
            scene.source, scene.edited_first, scene.mask, model=str(checkpoint), run=tmp_path / "run", store="none",
            steps=1, sampling_steps=1, rank=1, **settings,
        ).reused  # fmt: skip

    assert reused() == []
    assert reused(weights="full") == ["train motion", "sample"], "the files hold full weights"
    assert reused(attention="native") == ["train motion"]
    assert reused(training_attention="native") == []


def test_the_encoders_load_once_for_several_objects_that_overlap(
    others: dict[str, Path], scene: Scene, tmp_path: Path
) -> None:
    """In HunyuanVideo the text encoder reads the edited first frame, which shows the targets below."""
    left, right = scene.mask.copy(), scene.mask.copy()
    left[:, :, 14:] = right[:, :, :14] = False
    objects = [{"name": "left", "mask": left}, {"name": "right", "mask": right}]
    loraedit.edit(
        scene.source, scene.edited_first, objects=objects, model=str(others["hunyuan, channels"]), run=tmp_path / "run",
        prompt="a red coat", steps=1, sampling_steps=1, guidance=3.0,
    )  # fmt: skip
    assert max(Counter(loaded(log_of(tmp_path / "run"))).values()) == 1
