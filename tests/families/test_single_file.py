"""Transformers from one file: native names, all precisions, GGUF, and refused files."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import WanTransformer3DModel
from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers
from safetensors.torch import load_file, save_file
from tiny import small_config
from torch import Tensor

from loraedit.errors import ModelError
from loraedit.families import open_family
from loraedit.families.card import read_card
from loraedit.families.known import known_model
from loraedit.families.wan.tensors import BLOCK_NAMES, TOP_NAMES
from loraedit.lora.adapter import attach, lora_parameters

CPU = torch.device("cpu")
I2V, FIRST_LAST = "Wan-AI/Wan2.1-I2V-14B-480P-Diffusers", "Wan-AI/Wan2.1-FLF2V-14B-720P-diffusers"
WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"


def native_name(name: str) -> str:
    start = ".".join(name.split(".")[:2]) + "." if name.startswith("blocks.") else ""
    table, rest = BLOCK_NAMES if start else TOP_NAMES, name[len(start) :]
    if rest in table:
        return start + table[rest]
    module, leaf = rest.rsplit(".", 1)
    return f"{start}{table[module]}.{leaf}"


def small_model() -> dict[str, Any]:
    known = known_model(I2V)
    assert known is not None
    return small_config(known)


def native_state(folder: Path, prefix: str = "") -> dict[str, Tensor]:
    return {prefix + native_name(name): value for name, value in load_file(folder / WEIGHTS).items()}


def load_from(folder: Path, file: Path) -> dict[str, Tensor]:
    family = open_family(read_card(folder, {"transformer": file}))
    state: dict[str, Tensor] = family.load_transformer(family.experts[0], CPU).state_dict()
    return state


@pytest.mark.parametrize("model", [I2V, FIRST_LAST])
@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
def test_native_names_are_those_that_diffusers_converts(
    published: dict[str, Path], model: str, prefix: str, tmp_path: Path
) -> None:
    native, own = native_state(published[model], prefix), load_file(published[model] / WEIGHTS)
    save_file(native, tmp_path / "model.safetensors")
    loaded = load_from(published[model], tmp_path / "model.safetensors")
    assert loaded.keys() == own.keys()
    assert all(torch.equal(loaded[name], own[name]) for name in own)
    converted = convert_wan_transformer_to_diffusers(dict(native))
    theirs = {name for name in converted if not name.endswith("emb_pos")}  # which diffusers leaves as it is
    assert theirs == own.keys() - {"condition_embedder.image_embedder.pos_embed"}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2])
def test_every_precision_loads_as_it_is_rounded(published: dict[str, Path], dtype: torch.dtype, tmp_path: Path) -> None:
    rounded = {name: value.to(dtype) for name, value in native_state(published[I2V], "diffusion_model.").items()}
    save_file(rounded, tmp_path / "model.safetensors")
    for name, value in load_from(published[I2V], tmp_path / "model.safetensors").items():
        assert value.dtype == torch.float32
        assert torch.equal(value, rounded["diffusion_model." + native_name(name)].float()), name


@pytest.mark.parametrize("ending", ["scale_weight", "weight_scale"])
def test_scaled_fp8_is_multiplied_out(published: dict[str, Path], ending: str, tmp_path: Path) -> None:
    state, name = native_state(published[I2V]), "blocks.1.ffn.0.weight"
    scale = state[name].abs().max() / 448
    expected = (state[name] / scale).to(torch.float8_e4m3fn)
    state |= {name: expected, name.replace("weight", ending): scale, "scaled_fp8": torch.zeros(2).to(expected.dtype)}
    save_file(state, tmp_path / "model.safetensors")
    loaded = load_from(published[I2V], tmp_path / "model.safetensors")
    assert torch.equal(loaded["blocks.1.ffn.net.0.proj.weight"], expected.float() * scale)


def test_a_transformer_of_another_size_takes_the_rest_of_a_folder(published: dict[str, Path], tmp_path: Path) -> None:
    config = {**small_model(), "num_layers": 3, "ffn_dim": 48}
    state = WanTransformer3DModel(**config).state_dict()
    save_file({native_name(name): value for name, value in state.items()}, tmp_path / "fun.safetensors")
    folder = shutil.copytree(published[I2V], tmp_path / "rest")
    (folder / WEIGHTS).unlink()
    card = read_card(folder, {"transformer": tmp_path / "fun.safetensors"})
    assert card.files["transformer"].config == config
    assert load_from(folder, tmp_path / "fun.safetensors").keys() == state.keys()


def test_a_gguf_stays_quantised_and_trains(published: dict[str, Path], tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    torch.manual_seed(0)
    thirty_twos = dict.fromkeys(("text_dim", "freq_dim", "image_dim", "added_kv_proj_dim"), 32)
    exact = WanTransformer3DModel(**{**small_model(), **thirty_twos, "attention_head_dim": 16, "ffn_dim": 64}).eval()
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "wan")
    for name, value in exact.state_dict().items():
        if name.startswith("blocks.") and value.ndim == 2:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(native_name(name), gguf.quants.quantize(value.numpy(), kind), raw_dtype=kind)
        else:
            writer.add_tensor(native_name(name), value.numpy())
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
        write()
    writer.close()
    folder = shutil.copytree(published[I2V], tmp_path / "rest")
    config = json.loads((folder / "transformer/config.json").read_text())
    (folder / "transformer/config.json").write_text(json.dumps({**config, "attention_head_dim": 16}))
    family = open_family(read_card(folder, {"transformer": tmp_path / "model.gguf"}))
    quantised: Any = family.load_transformer(family.experts[0], CPU)
    assert quantised.blocks[0].ffn.net[2].weight.dtype == torch.uint8
    inputs = torch.randn(1, 36, 2, 4, 4), torch.tensor([500.0]), torch.randn(1, 8, 32), torch.randn(1, 5, 32)
    attach(quantised, family.lora_targets("all"), rank=2, seed=0)
    output = quantised.train()(*inputs, return_dict=False)[0]
    assert 0 < (output - exact(*inputs, return_dict=False)[0]).abs().max() < 0.03
    output.sum().backward()
    assert all(parameter.grad is not None for _, parameter in lora_parameters(quantised))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (pickle.dumps({"weights": [1.0]}), "is a pickle under another name"),
        (b"PK\x03\x04" + bytes(64), "is a pickle under another name"),
        (b"", "damaged or not a safetensors file"),
        (b"<!DOCTYPE html>", "damaged or not a safetensors file"),
        (None, "cannot be read"),
    ],
)
def test_what_is_no_safetensors_file_is_refused(
    published: dict[str, Path], content: bytes | None, words: str, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match=words):
        read_card(published[I2V], {"transformer": tmp_path / "model.safetensors"})


@pytest.mark.parametrize("name", ["model.pth", "model.ckpt", "model.bin"])
def test_a_pickle_is_refused_by_its_name(published: dict[str, Path], name: str, tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1)}, tmp_path / name)
    with pytest.raises(ModelError, match="never from pickle"):
        read_card(published[I2V], {"transformer": tmp_path / name})


def test_a_damaged_gguf_is_refused(published: dict[str, Path], tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    (tmp_path / "model.gguf").write_bytes(b"GGUF" + bytes(3))
    with pytest.raises(ModelError, match="damaged or not a GGUF file"):
        read_card(published[I2V], {"transformer": tmp_path / "model.gguf"})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda state: state.pop("blocks.1.ffn.0.weight"), "lacks the tensor blocks.1.ffn.net.0.proj.weight"),
        (lambda state: state.pop("patch_embedding.weight"), "holds no Wan transformer"),
        (lambda state: state.update({"vace_blocks.0.bias": torch.zeros(1)}), "not a plain Wan I2V transformer"),
        (lambda state: state.update({"head.modulation": torch.zeros(3)}), "scale_shift_table is"),
        (lambda state: state.update({"patch_embedding.weight": torch.zeros(24, 16, 1, 2, 2)}), "takes 16 channels"),
    ],
)
def test_a_transformer_of_another_kind_is_refused(
    published: dict[str, Path], change: Callable[[dict[str, Tensor]], object], words: str, tmp_path: Path
) -> None:
    state = native_state(published[I2V])
    change(state)
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=words):
        read_card(published[I2V], {"transformer": tmp_path / "model.safetensors"})


def test_a_file_for_an_expert_that_is_not_there_is_refused(published: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="has no transformer_2 that a file could replace"):
        read_card(published[I2V], {"transformer_2": tmp_path / "model.safetensors"})


def test_the_identity_follows_the_file(published: dict[str, Path], tmp_path: Path) -> None:
    state = native_state(published[I2V])
    save_file(state, tmp_path / "a.safetensors")
    save_file({**state, "head.head.bias": state["head.head.bias"] + 1}, tmp_path / "b.safetensors")
    cards = [read_card(published[I2V], {"transformer": tmp_path / name}) for name in ("a.safetensors", "b.safetensors")]
    prints = {read_card(published[I2V]).fingerprint(), *(card.fingerprint() for card in cards)}
    assert len(prints) == 3
