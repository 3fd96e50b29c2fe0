"""Damaged and unsupported checkpoints are refused before any weights load."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from parity import KINDS
from safetensors.torch import load_file, save_file

from loraedit.errors import ModelError
from loraedit.families import open_family
from loraedit.families.card import NANO, read_card
from loraedit.families.encoding import embed_prompt
from loraedit.families.hub import resolve_model
from loraedit.families.skeleton import open_skeleton
from loraedit.settings import make_settings
from loraedit.types import Size


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
    ("window", "asked", "expected"),
    [
        (Size(303, 393), {}, Size(304, 400)),  # its own pixels
        (Size(480, 832), {}, Size(480, 832)),
        (Size(1080, 1920), {}, Size(480, 848)),  # never more than the model's area,
        (Size(60, 104), {}, Size(240, 416)),  # and never less than a quarter of it
        (Size(303, 393), {"quality": "full"}, Size(560, 720)),
        (Size(303, 393), {"area": 0.5}, Size(304, 400)),  # below half the area already
        (Size(480, 832), {"area": 0.5}, Size(336, 592)),
        (Size(303, 393), {"quality": "full", "area": 0.5}, Size(400, 512)),
        (Size(60, 104), {"area": 0.1}, Size(144, 256)),  # what the user asks for goes below the least area
    ],
)
def test_a_window_is_worked_on_at_its_own_pixels_within_the_areas_of_the_model(
    window: Size, asked: dict[str, object], expected: Size
) -> None:
    with open_skeleton("wan2.1-i2v-14b-480p") as card:
        assert card.working_size(window, make_settings(asked).resolved(card.recipe)) == expected


def test_nano_works_at_its_own_area_on_every_window() -> None:
    card = read_card(NANO)
    settings = make_settings({}).resolved(card.recipe)
    assert {str(card.working_size(Size(side, side), settings)) for side in (20, 64, 200)} == {"64x64"}


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
        ("vae/config.json", {"patch_size": ""}, "not that of a WanImageToVideoPipeline"),
        ("vae/config.json", {"patch_size": 2}, "reduces frames and sides by 4 and 16, but says 4 and 8"),
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


def test_a_pipe_in_place_of_a_transformer_file_is_not_waited_for(checkpoint: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "transformer.safetensors")
    with pytest.raises(ModelError, match="is not a plain file"):
        read_card(checkpoint, {"transformer": tmp_path / "transformer.safetensors"})


def test_a_tokenizer_that_lost_its_configuration_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(checkpoint, tmp_path / "model")
    (folder / "tokenizer/tokenizer_config.json").unlink()
    with pytest.raises(ModelError, match="names no token to pad prompts with"):
        embed_prompt(open_family(read_card(folder)), "a cat", torch.device("cpu"))


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
    """Moves the offsets of the first tensor, without changing the header's length."""
    size = int.from_bytes(content[:8], "little")
    header = content[8 : 8 + size]
    return content[:8] + header.replace(b'"data_offsets":[0,', b'"data_offsets":[4,', 1) + content[8 + size :]


def pickled(_content: bytes) -> bytes:
    return pickle.dumps({"weight": [1.0]})


# ---- every family ----------------------------------------------------------------------------------------------------

FAMILIES = ["wan", *KINDS]
CLASSES = {"transformer": "FluxTransformer2DModel", "vae": "AutoencoderKL", "scheduler": "AutoencoderKLWan"}
"""By component, a class of diffusers that is none of it."""


@pytest.fixture
def spoilt(every: dict[str, Path], name: str, tmp_path: Path) -> Path:
    """Copies a family's checkpoint, for tests that damage it."""
    return shutil.copytree(every[name], tmp_path / "model")


def change_json(file: Path, **change: object) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))


def refused(folder: Path, words: str) -> None:
    with pytest.raises(ModelError, match=words) as problem:
        read_card(folder)
    assert "\n" not in str(problem.value) and len(str(problem.value)) < 400


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("component", ["transformer", "vae", "text_encoder"])
def test_spoilt_weights_are_refused_before_any_load(spoilt: Path, component: str) -> None:
    file = next((spoilt / component).glob("*.safetensors"))
    whole = file.read_bytes()
    for spoil, words in (
        (cut_short, "is damaged or not a safetensors file"),
        (lying, "is damaged or not a safetensors file"),
        (pickled, "is a pickle under another name"),
    ):
        assert spoil(whole) != whole
        file.write_bytes(spoil(whole))
        refused(spoilt, words)
    file.write_bytes(whole)
    file.rename(file.with_suffix(".bin"))
    refused(spoilt, rf"only {file.stem}\.bin, a pickle")
    file.with_suffix(".bin").unlink()
    refused(spoilt, r"no \.safetensors weights")


@pytest.mark.parametrize("name", FAMILIES)
def test_a_missing_shard_is_refused(spoilt: Path) -> None:
    index = {"weight_map": {"a": "diffusion_pytorch_model.safetensors", "b": "diffusion-00002.safetensors"}}
    (spoilt / "transformer/diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    refused(spoilt, "lacks diffusion-00002")


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("component", CLASSES)
def test_a_component_of_another_class_is_refused(spoilt: Path, component: str) -> None:
    index = spoilt / "model_index.json"
    whole = index.read_text()
    change_json(index, **{component: ["diffusers", CLASSES[component]]})
    refused(spoilt, f"names {CLASSES[component]} as its {component}")
    index.write_text(whole)
    if component != "scheduler":
        change_json(spoilt / component / "config.json", _class_name=CLASSES[component])
        refused(spoilt, f"is a {CLASSES[component]}")


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize(
    ("number", "times"), [("num_layers", 2), ("num_attention_heads", 2), ("attention_head_dim", 0.5)]
)
def test_a_transformer_of_another_size_than_its_configuration_says_is_refused(
    spoilt: Path, number: str, times: float
) -> None:
    file = spoilt / "transformer/config.json"
    change_json(file, **{number: int(times * json.loads(file.read_text())[number])})
    refused(spoilt, "is not what its configuration says|lacks the tensor")


@pytest.mark.parametrize("name", FAMILIES)
def test_a_block_without_one_of_its_tensors_is_refused(spoilt: Path) -> None:
    file = spoilt / "transformer/diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    lost = max(key for key in tensors if "blocks.1." in key)
    save_file({key: value for key, value in tensors.items() if key != lost}, file)
    refused(spoilt, f"lacks the tensor {lost.rpartition('blocks.1.')[2]}|lacks the tensor {lost}")


@pytest.mark.parametrize("name", FAMILIES)
def test_a_tensor_that_no_header_tells_to_be_missing_is_refused_on_loading(spoilt: Path) -> None:
    """The libraries would use random values in its place."""
    file = spoilt / "vae/diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    lost = next(key for key in tensors if "decoder" in key)
    save_file({key: value for key, value in tensors.items() if key != lost}, file)
    family = open_family(read_card(spoilt))
    with pytest.raises(ModelError, match=f"lacks the tensor {lost}"):
        family.decode(torch.zeros(family.card.latent_channels, 1, 4, 4), torch.device("cpu"))


def test_an_ltx_from_before_conditions_is_refused(others: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(others["ltx"], tmp_path / "model")
    change_json(folder / "scheduler/scheduler_config.json", use_dynamic_shifting=True)
    refused(folder, r"from before 0\.9\.5")


def test_weights_of_another_model_are_refused(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(checkpoints["plain"], tmp_path / "model")
    name = "transformer/diffusion_pytorch_model.safetensors"
    shutil.copyfile(checkpoints["wan21"] / name, folder / name)
    with pytest.raises(ModelError, match="not a plain Wan I2V transformer"):
        read_card(folder)
