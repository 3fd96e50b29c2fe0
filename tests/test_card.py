"""What is refused before any weights load."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
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
        ("model_index.json", {"expand_timesteps": True}, "takes 12 channels, not 4"),
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


def test_nothing_is_fetched_unless_asked() -> None:
    with pytest.raises(ModelError, match=r"not on this machine\. Add --download to fetch it from the Hub, or"):
        resolve_model("nobody/nothing")
    with pytest.raises(ModelError, match=r"Add --download to fetch it from the Hub \(46 GB in bfloat16\)"):
        resolve_model("Wan-AI/Wan2.1-I2V-14B-480P-Diffusers")


def test_a_hub_id_that_cannot_be_fetched_is_refused() -> None:
    with pytest.raises(ModelError, match="could not be fetched"):
        resolve_model("nobody/nothing", download=True)


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


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("transformer", ["my_model", "Transformer"], "code of its own"),
        ("scheduler", ["os", "system"], "code of its own"),
        ("extra", ["custom", "Thing"], "code of its own"),
        ("vae", ["diffusers", "AutoencoderKL"], "names AutoencoderKL as its vae"),
        ("text_encoder", ["transformers", "CLIPTextModel"], "names CLIPTextModel as its text_encoder"),
        ("_class_name", ["pipeline", "MyPipeline"], "not an image-to-video model"),
    ],
)
def test_foreign_code_and_wrong_classes_are_refused(
    checkpoint: Path, tmp_path: Path, name: str, value: list[str], words: str
) -> None:
    folder = shutil.copytree(checkpoint, tmp_path / "model")
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({**index, name: value}))
    with pytest.raises(ModelError, match=words):
        read_card(folder)


def cut_short(content: bytes) -> bytes:
    return content[:-7]


def lying(content: bytes) -> bytes:
    """Every offset of the first tensor moved, the header's length unchanged."""
    size = int.from_bytes(content[:8], "little")
    header = content[8 : 8 + size]
    return content[:8] + header.replace(b'"data_offsets":[0,', b'"data_offsets":[4,', 1) + content[8 + size :]


def pickled(_content: bytes) -> bytes:
    return pickle.dumps({"weight": [1.0]})


@pytest.mark.parametrize("component", ["transformer", "vae", "text_encoder"])
@pytest.mark.parametrize("spoil", [cut_short, lying, pickled])
def test_spoilt_weights_are_refused_before_any_load(
    checkpoint: Path, tmp_path: Path, component: str, spoil: Callable[[bytes], bytes]
) -> None:
    folder = shutil.copytree(checkpoint, tmp_path / "model")
    file = next((folder / component).glob("*.safetensors"))
    content = spoil(file.read_bytes())
    assert content != file.read_bytes()
    file.write_bytes(content)
    with pytest.raises(ModelError, match=r"is damaged or no safetensors file|is a pickle under another name"):
        read_card(folder)


def test_a_folder_of_pickles_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(checkpoint, tmp_path / "model")
    weights = folder / "transformer/diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(ModelError, match=r"only diffusion_pytorch_model\.bin, a pickle"):
        read_card(folder)


def test_weights_of_another_model_are_refused(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(checkpoints["plain"], tmp_path / "model")
    name = "transformer/diffusion_pytorch_model.safetensors"
    shutil.copyfile(checkpoints["wan21"] / name, folder / name)
    with pytest.raises(ModelError, match="not a plain Wan I2V transformer"):
        read_card(folder)
