"""Transformers read tensor by tensor: native names, all precisions, quantised weights, GGUF, and refused files."""

from __future__ import annotations

import json
import pickle
import re
import shutil
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import WanTransformer3DModel
from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers
from native_names import native_tensor_name
from quantised_weights import NF4
from safetensors.torch import load_file, save_file
from tiny import small_config
from torch import Tensor

from loraedit.errors import ModelError
from loraedit.families import frozen_weights, open_family
from loraedit.families.card import read_card
from loraedit.families.frozen_weights import kinds_of, quantise_shapes
from loraedit.families.known import known_model
from loraedit.families.quantised import QuantisedLinear, QuantisedWeight, quantise
from loraedit.lora.adapter import attach, lora_parameters
from loraedit.planning.skeleton import build
from loraedit.settings import Resources, WeightStore

CPU = torch.device("cpu")
I2V, FIRST_LAST = "Wan-AI/Wan2.1-I2V-14B-480P-Diffusers", "Wan-AI/Wan2.1-FLF2V-14B-720P-diffusers"
WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"


def small_model() -> dict[str, Any]:
    known = known_model(I2V)
    assert known is not None
    return small_config(known)


def native_state(folder: Path, prefix: str = "") -> dict[str, Tensor]:
    return {prefix + native_tensor_name(name): value for name, value in load_file(folder / WEIGHTS).items()}


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


def loaded(folder: Path, file: Path | None = None, weights: WeightStore = "auto") -> Any:
    card = read_card(folder, {"transformer": file} if file else None)
    family = open_family(card, Resources(weights=weights))
    return family.load_transformer(family.experts[0], CPU)


def full(model: Any) -> dict[str, Tensor]:
    """Returns the state of a model after expanding its quantised weights to float32."""
    for name, module in list(model.named_modules()):
        if isinstance(module, QuantisedLinear):
            model.set_submodule(name, module.expanded(torch.float32))
    state: dict[str, Tensor] = model.state_dict()
    return state


def quantised_layers(model: Any) -> set[str]:
    return {name for name, module in model.named_modules() if isinstance(module, QuantisedLinear)}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2])
@pytest.mark.parametrize("weights", ["auto", "full"])
def test_every_precision_loads_as_it_is_rounded(
    published: dict[str, Path], dtype: torch.dtype, weights: WeightStore, tmp_path: Path
) -> None:
    rounded = {name: value.to(dtype) for name, value in native_state(published[I2V], "diffusion_model.").items()}
    save_file(rounded, tmp_path / "model.safetensors")
    model = loaded(published[I2V], tmp_path / "model.safetensors", weights)
    stays = dtype.itemsize == 1 and weights == "auto"
    assert isinstance(model.blocks[0].attn1.to_q, QuantisedLinear) == stays
    for name, value in full(model).items():
        assert value.dtype == torch.float32
        assert torch.equal(value, rounded["diffusion_model." + native_tensor_name(name)].float()), name


@pytest.mark.parametrize("ending", ["scale_weight", "weight_scale"])
@pytest.mark.parametrize("weights", ["auto", "full"])
def test_scaled_fp8_is_multiplied_out(
    published: dict[str, Path], ending: str, weights: WeightStore, tmp_path: Path
) -> None:
    state = native_state(published[I2V])
    names = {
        "blocks.1.ffn.0.weight": "blocks.1.ffn.net.0.proj.weight",
        "time_projection.1.weight": "condition_embedder.time_proj.weight",
    }
    for name in names:
        scale = state[name].abs().max() / 448
        codes = (state[name] / scale).to(torch.float8_e4m3fn)
        state |= {name: codes, name.replace("weight", ending): scale, "scaled_fp8": torch.zeros(2).to(codes.dtype)}
    save_file(state, tmp_path / "model.safetensors")
    model = loaded(published[I2V], tmp_path / "model.safetensors", weights)
    stays = {"blocks.1.ffn.net.0.proj"} if weights == "auto" else set()
    assert quantised_layers(model) == stays, "what is full in the file or outside the blocks is full"
    expanded = full(model)
    for name, ours in names.items():
        assert torch.equal(expanded[ours], state[name].float() * state[name.replace("weight", ending)])


@pytest.mark.parametrize("weights", [NF4])
def test_an_fp8_file_may_shrink_to_four_bits(published: dict[str, Path], weights: WeightStore, tmp_path: Path) -> None:
    state = native_state(published[I2V])
    matrices = {name: value.to(torch.float8_e4m3fn) for name, value in state.items() if value.ndim == 2}
    save_file({**state, **matrices}, tmp_path / "model.safetensors")
    model = loaded(published[I2V], tmp_path / "model.safetensors", weights)
    assert model.blocks[0].attn1.to_q.stored.kind == "nf4"
    found, fp8 = full(model)["blocks.0.attn1.to_q.weight"], matrices["blocks.0.self_attn.q.weight"].float()
    assert (found - fp8).norm() < 0.12 * fp8.norm()


@pytest.mark.parametrize("weights", ["fp8", "int8", NF4])
def test_every_family_quantises_its_blocks_while_it_reads(
    every: dict[str, Path], weights: WeightStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for model, folder in every.items():
        exact, alive = loaded(folder).state_dict(), list[int]()
        monkeypatch.setattr(frozen_weights, "quantise", metered(alive))
        quantised = loaded(folder, weights=weights)
        names = quantised_layers(quantised)
        assert names and all(re.match(r"\w*blocks\.\d+\.", name) for name in names), model
        attention = {name for name in exact if re.match(r"\w*blocks\.\d+\.\w*attn\w*\.to_q\.weight", name)}
        assert {f"{name}.weight" for name in names} >= attention
        assert not any(".norm" in name for name in names), "what modulates norms stays full"
        assert max(alive) <= 2 and len(alive) == len(names), "full weights are not in memory together"
        found = full(quantised)
        assert found.keys() == exact.keys()
        for name, value in exact.items():
            tolerance = 0.12 if name.removesuffix(".weight") in names else 0.0
            assert (found[name] - value).norm() <= tolerance * value.norm(), name


def metered(alive: list[int]) -> Callable[[Tensor, str], QuantisedWeight]:
    """Wraps :func:`quantise`; appends how many of the tensors that it was given are alive at each call."""
    given: list[weakref.ref[Tensor]] = []

    def run(weight: Tensor, kind: str) -> QuantisedWeight:
        given.append(weakref.ref(weight))
        alive.append(sum(reference() is not None for reference in given))
        return quantise(weight, kind)

    return run


def test_a_folder_that_lacks_a_tensor_is_refused(published: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(published[I2V], tmp_path / "lacking")
    family = open_family(read_card(folder), Resources(weights="fp8"))
    state = load_file(folder / WEIGHTS)
    del state["blocks.1.ffn.net.2.weight"]
    save_file(state, folder / WEIGHTS)
    with pytest.raises(ModelError, match=r"lacks the tensor blocks\.1\.ffn\.net\.2\.weight"):
        family.load_transformer(family.experts[0], CPU)


def test_a_transformer_of_another_size_takes_the_rest_of_a_folder(published: dict[str, Path], tmp_path: Path) -> None:
    config = {**small_model(), "num_layers": 3, "ffn_dim": 48}
    state = WanTransformer3DModel(**config).state_dict()
    save_file({native_tensor_name(name): value for name, value in state.items()}, tmp_path / "fun.safetensors")
    folder = shutil.copytree(published[I2V], tmp_path / "rest")
    (folder / WEIGHTS).unlink()
    card = read_card(folder, {"transformer": tmp_path / "fun.safetensors"})
    assert card.files["transformer"].config == config
    assert load_from(folder, tmp_path / "fun.safetensors").keys() == state.keys()


WIDE: dict[str, Any] = {
    "attention_head_dim": 128, "ffn_dim": 256, "text_dim": 32, "freq_dim": 32, "image_dim": 32,
    "added_kv_proj_dim": 256,
}  # fmt: skip
"""Sizes that the blocks of all GGUF types divide."""


@pytest.fixture(scope="module")
def wide(published: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """Returns a wider model, and a folder for files of it."""
    torch.manual_seed(0)
    folder = shutil.copytree(published[I2V], tmp_path_factory.mktemp("wide") / "rest")
    config = json.loads((folder / "transformer/config.json").read_text())
    (folder / "transformer/config.json").write_text(json.dumps({**config, "attention_head_dim": 128}))
    return folder, WanTransformer3DModel(**{**small_model(), **WIDE}).eval()


@pytest.mark.parametrize("kind", ["Q8_0", "Q6_K", "Q5_K", "Q4_K"])
def test_a_gguf_stays_quantised_and_trains(wide: tuple[Path, Any], kind: str, tmp_path: Path) -> None:
    gguf_files, (folder, exact), file = pytest.importorskip("gguf_files"), wide, tmp_path / "model.gguf"
    native = {native_tensor_name(name): value for name, value in exact.state_dict().items()}
    gguf_files.write_gguf(
        file, native, lambda name, value: kind if name.startswith("blocks.") and value.ndim == 2 else None
    )
    quantised = loaded(folder, file)
    assert quantised.blocks[0].ffn.net[2].stored.kind == kind
    assert sum(tensor.nbytes for tensor in quantised.parameters()) <= 1.05 * file.stat().st_size
    inputs = torch.randn(1, 36, 2, 4, 4), torch.tensor([500.0]), torch.randn(1, 8, 32), torch.randn(1, 5, 32)
    attach(quantised, ("to_q", "ffn.net.2"), rank=2, seed=0)
    output = quantised.train()(*inputs, return_dict=False)[0]
    plain = exact(*inputs, return_dict=False)[0]
    assert 0 < (output - plain).norm() < 0.1 * plain.norm()
    output.sum().backward()
    assert all(parameter.grad is not None for _, parameter in lora_parameters(quantised))
    expanded = full(loaded(folder, file, "full"))
    assert all((expanded[name] - value).norm() <= 0.1 * value.norm() for name, value in exact.state_dict().items())


@pytest.mark.parametrize("weights", ["auto", "fp8", "int8", NF4])
def test_a_plan_gets_the_layers_that_a_run_loads(wide: tuple[Path, Any], weights: WeightStore, tmp_path: Path) -> None:
    """A plan reads no weights; the kinds in a GGUF file are in its header."""
    folder, exact = wide
    native = {native_tensor_name(name): value for name, value in exact.state_dict().items()}
    if weights == "auto":
        gguf_files, file = pytest.importorskip("gguf_files"), tmp_path / "model.gguf"
        gguf_files.write_gguf(file, native, lambda name, _: "Q4_K" if re.search(r"ffn.\d.weight", name) else None)
    else:
        file = tmp_path / "model.safetensors"
        save_file(native, file)
    card = read_card(folder, {"transformer": file})
    family = open_family(card, Resources(weights=weights))
    real, empty = family.load_transformer(family.experts[0], CPU), build(card, "transformer", torch.float32)
    quantise_shapes(empty, kinds_of(card, "transformer", weights))
    facts = [[(name, each.shape, each.dtype) for name, each in model.named_parameters()] for model in (empty, real)]
    assert facts[0] == facts[1] and quantised_layers(real)


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
