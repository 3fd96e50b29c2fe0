"""A family that is registered from outside of the package edits, and is planned, like the built-in ones."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import make_scene
from toy_family import TOY, save_toy
from typer.testing import CliRunner

import loraedit
from loraedit.cli.main import app
from loraedit.errors import ModelError
from loraedit.families import register
from loraedit.families.card import read_card
from loraedit.families.registry import find_record
from loraedit.lora.export import convert, describe


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if find_record("ToyPipeline") is None:
        register(TOY)
    return save_toy(tmp_path_factory.mktemp("models") / "toy")


def test_it_trains_a_lora_and_edits_a_clip(toy: Path, tmp_path: Path) -> None:
    scene = make_scene(frames=9)
    reference = scene.source[-1].copy()
    reference[scene.mask[-1]] = 255
    result = loraedit.edit(
        scene.source, scene.edited_first, scene.mask, references={len(scene.source) - 1: reference},
        model=str(toy), prompt="a blue square", steps=4, reference_steps=2, segment_frames=5, run=tmp_path / "run",
    )  # fmt: skip
    assert result.outside_exact
    assert len(result.losses) == 6 and all(np.isfinite(result.losses))
    assert (result.clip.frames[scene.mask] != scene.source[scene.mask]).any()
    trained = sorted((tmp_path / "run/lora").glob("*.safetensors"))
    assert set(describe(trained[0])["layers"]) == {
        f"layers.{n}.{name}" for n in range(3) for name in ("widen", "narrow")
    }
    back = convert(convert(trained[0], tmp_path / "a.safetensors", "diffusers"), tmp_path / "b.safetensors", "comfyui")
    again = loraedit.edit(
        scene.source, scene.edited_first, scene.mask, model=str(toy), lora="none", extra_lora=(str(back),)
    )
    assert again.outside_exact


def test_it_is_planned(toy: Path) -> None:
    command = ["plan", "--model", str(toy), "--size", "32x32", "--frames", "9", "--json"]
    found = json.loads(CliRunner().invoke(app, command, catch_exceptions=False).stdout)
    assert found["tokens"] == 9 * (32 // 4) ** 2
    assert found["phase_flops"]["train"] > found["phase_flops"]["sample"] > 0
    assert found["phase_flops"]["text_encode"] == 0


def test_a_checkpoint_with_classes_beyond_its_record_is_refused(toy: Path, tmp_path: Path) -> None:
    index = json.loads((toy / "model_index.json").read_text())
    (tmp_path / "model_index.json").write_text(json.dumps({**index, "vae": ["os", "system"]}))
    with pytest.raises(ModelError, match="code of its own"):
        read_card(tmp_path)
    (tmp_path / "model_index.json").write_text(json.dumps({**index, "vae": ["toy_family", "ToyTransformer"]}))
    with pytest.raises(ModelError, match="names ToyTransformer as its vae"):
        read_card(tmp_path)


def test_two_families_cannot_read_the_same_pipeline(toy: Path) -> None:
    assert toy.is_dir()
    with pytest.raises(ValueError, match="'toy' is registered for ToyPipeline already"):
        register(replace(TOY, name="second toy"))
    with pytest.raises(ValueError, match="'wan' is registered for wan already"):
        register(replace(TOY, name="wan", pipelines=("WanOfTomorrowPipeline",)))


def test_the_registry_and_all_card_readers_load_no_torch() -> None:
    code = "import sys, loraedit.families.card, loraedit.families.layer_names; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
