"""What is refused before any weights load."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from loraedit.errors import ModelError
from loraedit.families.card import NANO, read_card, resolve_model


def test_nano_is_a_wan_checkpoint_of_at_most_25_mb() -> None:
    card = read_card(resolve_model("nano"))
    assert card.pipeline == "WanImageToVideoPipeline"
    assert sum(path.stat().st_size for path in NANO.rglob("*")) <= 25_000_000


def test_a_checkpoint_without_a_card_file_gets_wans_own_values(checkpoint: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(checkpoint, tmp_path / "model")
    (folder / "loraedit.json").unlink()
    card = read_card(folder)
    assert (card.settings.area_px, card.settings.text_tokens, card.multiple_px) == (832 * 480, 512, 16)


@pytest.mark.parametrize(
    ("file", "change", "words"),
    [
        ("model_index.json", {"_class_name": "WanPipeline"}, "WanPipeline, not an image-to-video model"),
        ("model_index.json", {"_class_name": "StableDiffusionPipeline"}, "not an image-to-video model"),
        ("model_index.json", {"expand_timesteps": True}, "no mask channels"),
        ("model_index.json", {"transformer": [None, None]}, "names no transformer"),
        ("transformer/config.json", {"in_channels": 4}, "takes 4 channels, not 12"),
        ("model_index.json", {"transformer": []}, "not that of a WanImageToVideoPipeline"),
        ("model_index.json", {"boundary_ratio": "x"}, "not that of a WanImageToVideoPipeline"),
        ("transformer/config.json", {"patch_size": None}, "not that of a WanImageToVideoPipeline"),
        ("vae/config.json", {"z_dim": None}, "not that of a WanImageToVideoPipeline"),
        ("loraedit.json", {"area_px": -1}, "area_px"),
        ("loraedit.json", {"surprise": 1}, "surprise"),
    ],
)
def test_a_checkpoint_that_is_not_i2v_is_refused(
    checkpoint: Path, tmp_path: Path, file: str, change: dict[str, object], words: str
) -> None:
    folder = shutil.copytree(checkpoint, tmp_path / "model")
    content = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps({**content, **change}))
    with pytest.raises(ModelError, match=words):
        read_card(folder)


@pytest.mark.parametrize(
    "file", ["model_index.json", "transformer/config.json", "vae/config.json", "scheduler/scheduler_config.json"]
)
@pytest.mark.parametrize("content", [None, b"", b"{", b"[1]", b"\xff\xfe"])
def test_a_broken_or_missing_json_file_is_refused(
    checkpoint: Path, tmp_path: Path, file: str, content: bytes | None
) -> None:
    folder = shutil.copytree(checkpoint, tmp_path / "model")
    if content is None:
        (folder / file).unlink()
    else:
        (folder / file).write_bytes(content)
    with pytest.raises(ModelError):
        read_card(folder)


def test_missing_weights_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(checkpoint, tmp_path / "model")
    for path in (folder / "vae").glob("*.safetensors"):
        path.unlink()
    with pytest.raises(ModelError, match=r"no \.safetensors weights"):
        read_card(folder)


@pytest.mark.parametrize("model", ["no-such-folder", "", "a/b/c", "../nowhere"])
def test_a_name_that_is_neither_folder_nor_hub_id_is_refused(model: str) -> None:
    with pytest.raises(ModelError):
        read_card(resolve_model(model))


def test_a_hub_id_that_cannot_be_fetched_is_refused() -> None:
    with pytest.raises(ModelError, match="could not be fetched"):
        resolve_model("nobody/nothing")


def test_a_missing_shard_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(checkpoint, tmp_path / "model")
    index = {"weight_map": {"a": "diffusion_pytorch_model.safetensors", "b": "diffusion-00002.safetensors"}}
    (folder / "transformer/diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match="lacks diffusion-00002"):
        read_card(folder)


def test_the_identity_follows_weights_and_not_the_recipe(checkpoint: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(checkpoint, tmp_path / "model")
    before = read_card(folder).fingerprint()
    card = json.loads((folder / "loraedit.json").read_text())
    (folder / "loraedit.json").write_text(json.dumps({**card, "recipe": {"steps": 77}}))
    assert read_card(folder).fingerprint() == before
    weights = folder / "transformer/diffusion_pytorch_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-5] ^= 1
    weights.write_bytes(bytes(content))
    assert read_card(folder).fingerprint() != before
