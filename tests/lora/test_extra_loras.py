"""Claims about edits with extra LoRAs: what they change, what they leave unchanged, and the messages."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from scenes import Scene

import loraedit
from loraedit.editing import EditResult
from loraedit.families.card import read_card
from loraedit.families.wan.family import WanFamily
from loraedit.job.prepare import prepare
from loraedit.job.request import EditRequest
from loraedit.lora.extra import settle_distilled
from loraedit.settings import make_settings


@pytest.fixture(scope="session")
def style(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Writes a LoRA for the tiny checkpoints that is strong enough to be visible."""
    generator, tensors = torch.Generator().manual_seed(0), {}
    for block in range(2):
        for layer in ("self_attn.q", "self_attn.v", "cross_attn.o"):
            key = f"diffusion_model.blocks.{block}.{layer}"
            tensors[f"{key}.lora_down.weight"] = torch.randn((4, 24), generator=generator)
            tensors[f"{key}.lora_up.weight"] = torch.randn((24, 4), generator=generator)
            tensors[f"{key}.alpha"] = torch.tensor(2.0)
    path = tmp_path_factory.mktemp("loras") / "style.safetensors"
    save_file(tensors, path)
    return path


def edit(scene: Scene, checkpoint: Path, **settings: Any) -> EditResult:
    settings = {"steps": 2, **settings}
    return loraedit.edit(scene.source, scene.edited_first, scene.mask, model=str(checkpoint), **settings)


def test_an_extra_lora_samples_again_and_does_not_train_again(
    checkpoint: Path, style: Path, scene: Scene, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    bare = edit(scene, checkpoint, run=run)
    frames = {}
    for spec in (f"{style}:0.5", f"{style}:1", f"{style}:0"):
        result = edit(scene, checkpoint, run=run, extra_lora=[spec])
        assert result.reused == ["train motion"] and result.lora_files[0] == bare.lora_files[0]
        frames[spec[-1]] = result.clip.frames
    assert (frames["5"] != frames["1"]).any() and (frames["5"] != bare.clip.frames).any()
    assert np.array_equal(frames["0"], bare.clip.frames)
    again = edit(scene, checkpoint, run=run, extra_lora=[f"{style}:0.5"])
    assert again.reused == ["train motion", "sample"] and np.array_equal(again.clip.frames, frames["5"])
    style_2 = tmp_path / "renamed.safetensors"
    style_2.write_bytes(style.read_bytes())
    assert "sample" in edit(scene, checkpoint, run=run, extra_lora=[f"{style_2}:0.5"]).reused
    settings = json.loads((run / "settings.json").read_text())
    assert settings["settings"]["extra_lora"] == [f"{style_2}:0.5"]
    ((digest, weight, noise),) = settings["inputs"]["extra_loras"]
    assert (len(digest), weight, noise) == (12, 0.5, None)


def test_the_order_of_extra_loras_counts(checkpoint: Path, style: Path, scene: Scene, tmp_path: Path) -> None:
    call: dict[str, Any] = {"lora": "none", "run": tmp_path / "run"}
    first = edit(scene, checkpoint, extra_lora=[f"{style}:0.1", f"{style}:0.4"], **call)
    swapped = edit(scene, checkpoint, extra_lora=[f"{style}:0.4", f"{style}:0.1"], **call)
    assert "sample" not in swapped.reused
    assert np.abs(first.clip.frames.astype(int) - swapped.clip.frames).max() <= 1  # but for rounding it is a sum


def test_an_extra_lora_lies_under_the_training_on_request_alone(
    checkpoint: Path, style: Path, scene: Scene, tmp_path: Path
) -> None:
    call: dict[str, Any] = {"run": tmp_path / "run", "extra_lora": [f"{style}:0.5"]}
    over, under = edit(scene, checkpoint, **call), edit(scene, checkpoint, **call, extra_in_training=True)
    assert over.losses != under.losses and under.reused == []
    again = edit(scene, checkpoint, run=tmp_path / "run", extra_lora=[f"{style}:0.6"], extra_in_training=True)
    assert again.reused == []
    distilled = style.with_name("lightx2v_4step.safetensors")
    distilled.write_bytes(style.read_bytes())
    with pytest.raises(loraedit.InputError, match="cannot be used in training"):
        edit(scene, checkpoint, extra_lora=[str(distilled)], extra_in_training=True)
    for settings in ({}, {"extra_lora": [str(style)], "lora": "none"}):
        with pytest.raises(loraedit.InputError, match="needs an --extra-lora and a LoRA to train"):
            edit(scene, checkpoint, extra_in_training=True, **settings)


def test_a_distilled_lora_decides_the_sampling_unless_the_user_does(
    checkpoint: Path, style: Path, scene: Scene, tmp_path: Path
) -> None:
    distilled = tmp_path / "my_distilled_5_steps.safetensors"
    distilled.write_bytes(style.read_bytes())

    def asked(**values: Any) -> tuple[int | None, float | None, tuple[str, ...]]:
        settings = make_settings({"model": str(checkpoint), "prompt": "a", "source_prompt": "b", **values})
        job = prepare(EditRequest(scene.source, scene.edited_first, scene.mask, settings=settings))
        return job.settings.sampling_steps, job.settings.guidance, job.notes

    model = json.loads((checkpoint / "loraedit.json").read_text())["recipe"]
    steps, guidance, (note,) = asked(extra_lora=[str(distilled)])
    assert (steps, guidance) == (5, 1.0) and "is distilled to 5 steps" in note
    assert "--sampling-steps 5, --guidance 1, --scheduler euler, --flow-shift 5." in note
    steps, guidance, (note,) = asked(extra_lora=[str(distilled)], guidance=2.0)
    assert (steps, guidance) == (5, 2.0) and "Your --guidance stays." in note
    assert asked(extra_lora=[str(distilled)], distilled_steps=0) == (model["sampling_steps"], model["guidance"], ())
    assert asked(extra_lora=[str(style)], distilled_steps=4) == (4, 1.0, ())
    chosen = {"sampling_steps": 2, "guidance": 1.5, "scheduler": "unipc", "flow_shift": 3.0}
    assert asked(extra_lora=[str(distilled)], **chosen) == (2, 1.5, ())


def test_a_distilled_lora_changes_of_a_models_sampling_what_its_family_needs(
    checkpoint: Path, others: dict[str, Path]
) -> None:
    def settled(model: Path) -> dict[str, Any]:
        settings, _ = settle_distilled(make_settings({"distilled_steps": 4}), [], read_card(model))
        return settings.model_dump(include={"sampling_steps", "guidance", "scheduler", "flow_shift"}, exclude_none=True)

    few = {"sampling_steps": 4, "guidance": 1.0}
    assert settled(checkpoint) == {**few, "scheduler": "euler", "flow_shift": 5.0}
    for name, folder in others.items():
        assert settled(folder) == ({"sampling_steps": 4} if read_card(folder).embeds_guidance else few), name
    assert any(read_card(folder).embeds_guidance for folder in others.values())


def test_each_expert_takes_its_own_loras(
    checkpoints: dict[str, Path], style: Path, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    stacked = {}

    def remember(_transformer: Any, extras: list[tuple[Path, float]]) -> None:
        stacked[len(stacked)] = extras

    monkeypatch.setattr("loraedit.sampling.transformers.stack", remember)
    extras = [f"{style}:0.5:high", f"{style}:0.25:low", f"{style}:2"]
    edit(scene, checkpoints["wan22"], lora="none", extra_lora=extras, sampling_steps=12)
    assert stacked == {0: [(style, 0.5), (style, 2.0)], 1: [(style, 0.25), (style, 2.0)]}
    with pytest.raises(loraedit.InputError, match="one transformer for all"):
        edit(scene, checkpoints["plain"], extra_lora=[f"{style}:high"])


@pytest.mark.parametrize("kind", ["missing", "cut short", "of another model"])
def test_a_bad_extra_lora_is_refused_before_any_weights_load(
    kind: str, checkpoint: Path, style: Path, scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("weights were loaded")

    monkeypatch.setattr(WanFamily, "_pipeline", refuse)
    file = tmp_path / "bad.safetensors"
    if kind == "cut short":
        file.write_bytes(style.read_bytes()[:-1])
    if kind == "of another model":
        key = "transformer.blocks.0.attn1.to_q"
        save_file({f"{key}.lora_A.weight": torch.ones(2, 9), f"{key}.lora_B.weight": torch.ones(9, 2)}, file)
    with pytest.raises(loraedit.ModelError):
        edit(scene, checkpoint, extra_lora=[str(file)], run=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_quantised_file_takes_extra_loras_and_trains_on_them(
    checkpoint: Path, style: Path, scene: Scene, tmp_path: Path
) -> None:
    """A transformer from one file, in fp8, under a LoRA of its user's and the one of the edit."""
    state = load_file(checkpoint / "transformer/diffusion_pytorch_model.safetensors")
    file = tmp_path / "fp8.safetensors"
    save_file(
        {name: value.to(torch.float8_e4m3fn) if value.ndim == 2 else value for name, value in state.items()}, file
    )
    common: dict[str, Any] = {"transformer": str(file), "run": tmp_path / "run"}
    frames = [edit(scene, checkpoint, **common).clip.frames]
    for training in (False, True):
        result = edit(scene, checkpoint, extra_lora=[str(style)], extra_in_training=training, **common)
        frames.append(result.clip.frames)
    assert all((one != other).any() for one, other in combinations(frames, 2))
