"""A plan counts every transformer that a run uses, as its file holds it and with what is attached to it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from loraedit.cli.main import app
from loraedit.errors import ModelError
from loraedit.families import open_family
from loraedit.families.card import ModelCard, read_card, read_configuration
from loraedit.families.skeleton import open_skeleton
from loraedit.job.card_checks import check_against_card
from loraedit.lora.adapter import attach, match_precision, stack
from loraedit.lora.extra import ExtraLora, check_extras
from loraedit.lora.header import read_header
from loraedit.planning import Cost, Limits, Shape, make_plan, measure_cost, work_of
from loraedit.planning.phase_cost import taking_turns
from loraedit.planning.transformer_cost import TransformerPlan
from loraedit.planning.uses import Uses
from loraedit.runtime.devices import simulated_accelerator
from loraedit.runtime.memory import weights_held
from loraedit.settings import Resources, TrainSettings, make_settings
from loraedit.types import Size

SETTINGS = TrainSettings(steps=1, rank=2, lr=1e-3)
SHAPE = Shape(9, Size(64, 64))
BOTH = ("transformer", "transformer_2")
GPU = torch.device("cpu")
"""A CPU that stands for a GPU."""


@pytest.fixture(autouse=True, scope="module")
def _as_on_a_gpu(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        with simulated_accelerator():
            yield


@pytest.fixture(scope="module")
def mixed(checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> ModelCard:
    """Returns the card of a model with two experts, the first of which is a file in fp8."""
    file = tmp_path_factory.mktemp("files") / "high.safetensors"
    return read_card(checkpoints["wan22"], {"transformer": fp8_file(checkpoints["wan22"] / "transformer", file)})


def fp8_file(folder: Path, file: Path) -> Path:
    """Writes a transformer as one file with the matrices of its blocks in scaled fp8."""
    (weights,) = folder.glob("*.safetensors")
    state = load_file(weights)
    for name, value in list(state.items()):
        if name.startswith("blocks.") and name.endswith(".weight") and value.ndim == 2:
            state[name] = value.to(torch.float8_e4m3fn)
            state[name.removesuffix("weight") + "scale_weight"] = torch.ones(1)
    save_file(state, file)
    return file


def held_by_a_run(card: ModelCard, name: str, resources: Resources) -> tuple[int, int]:
    """Returns the bytes of a transformer as a run reads it for a GPU, without and with its LoRA."""
    family = open_family(card, resources)
    expert = next(each for each in family.experts if each.name == name)
    transformer = family.load_transformer(expert, GPU)
    loaded = weights_held(transformer).device
    attach(transformer, family.lora_targets("all"), SETTINGS.rank, seed=0)
    return loaded, weights_held(transformer).device


@pytest.mark.parametrize("weights", ["auto", "int8"])
def test_two_experts_in_different_kinds_take_the_larger_on_the_device_and_both_on_the_host(
    mixed: ModelCard, weights: str
) -> None:
    resources = Resources.model_validate({"weights": weights})
    runs = [held_by_a_run(mixed, name, resources) for name in BOTH]
    train = measure_cost(mixed, SHAPE, SETTINGS, resources, uses=Uses(BOTH, BOTH))["train"]
    assert train.weights_bytes == max(placed for _, placed in runs)
    assert train.all_loaded_bytes == sum(loaded for loaded, _ in runs)
    assert runs[0] < runs[1]


def test_an_expert_in_fp8_stays_so_where_the_other_is_held_as_int8(mixed: ModelCard) -> None:
    check_against_card(make_settings({"weights": "int8"}).resolved(mixed.recipe), mixed)
    family = open_family(mixed, Resources(weights="int8"))
    kinds = [
        {module.kind for module in family.load_transformer(expert, GPU).modules() if hasattr(module, "dequantised")}
        for expert in family.experts
    ]
    assert kinds == [{"fp8"}, {"int8"}]


def test_a_full_expert_beside_a_quantised_one_is_held_smaller_where_nothing_else_fits(
    mixed: ModelCard, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure(_card: ModelCard, _shape: Shape, _: TrainSettings, resources: Resources, *__: Any, **___: Any) -> Any:
        size = 1 if resources.weights == "int8" else 30 * 10**9
        return {name: Cost(1, size, 1) for name in ("text_encode", "vae_encode", "train", "sample", "vae_decode")}

    monkeypatch.setattr("loraedit.planning.plan.measure_cost", measure)
    work = work_of(mixed, make_settings({}).resolved(mixed.recipe), SHAPE.size, [9], 0)
    limits = Limits(24 * 10**9)
    assert make_plan(mixed, "a", SHAPE.size, work, limits, lambda chosen: chosen).resources.weights == "int8"


def test_transformers_that_take_turns_cost_what_the_largest_does() -> None:
    small, large = Cost(3, 10, 5, host_bytes=9, loaded_bytes=19), Cost(2, 20, 4, host_bytes=1, loaded_bytes=21)
    assert taking_turns([small, large]) == Cost(3, 20, 4, host_bytes=9, loaded_bytes=21, all_loaded_bytes=40)


def lora_file(card: ModelCard, file: Path, rank: int) -> Path:
    """Writes a LoRA for the attention of all blocks, and a whole difference of one bias."""
    transformer = open_family(card).load_transformer(open_family(card).experts[0], GPU)
    tensors = {}
    for name, value in transformer.state_dict().items():
        if "attn" in name and name.endswith(".weight") and value.ndim == 2:
            layer = name.removesuffix(".weight")
            tensors[f"{layer}.lora_A.weight"] = torch.ones(rank, value.shape[1])
            tensors[f"{layer}.lora_B.weight"] = torch.ones(value.shape[0], rank)
    save_file({**tensors, "blocks.0.attn1.to_q.diff_b": torch.ones(24)}, file)
    return file


@pytest.mark.parametrize("in_training", [False, True])
def test_an_extra_lora_is_planned_as_it_is_attached(checkpoint: Path, tmp_path: Path, in_training: bool) -> None:
    card = read_card(checkpoint)
    extra = ExtraLora(lora_file(card, tmp_path / "style.safetensors", rank=3), 0.5)
    family = open_family(card)
    transformer = family.load_transformer(family.experts[0], GPU)
    loaded = weights_held(transformer).device
    stack(transformer, [(extra.path, extra.weight)])
    attach(transformer, family.lora_targets("all"), SETTINGS.rank, seed=0)
    held = weights_held(transformer).device
    match_precision(transformer, transformer.dtype)
    in_sampling = weights_held(transformer).device

    bare = measure_cost(card, SHAPE, SETTINGS, Resources())
    found = measure_cost(card, SHAPE, SETTINGS, Resources(), uses=Uses(extras=(extra,), extra_in_training=in_training))
    assert (found["sample"].weights_bytes, found["sample"].loaded_bytes) == (in_sampling, loaded)
    assert found["sample"].flops > bare["sample"].flops
    assert found["train"].weights_bytes == (held if in_training else bare["train"].weights_bytes)
    assert (found["train"].flops > bare["train"].flops) == in_training


def test_a_lora_of_another_model_is_refused_by_a_plan_without_weights(checkpoint: Path, tmp_path: Path) -> None:
    file = lora_file(read_card(checkpoint), tmp_path / "style.safetensors", rank=3)
    with open_skeleton("wan2.1-i2v-14b-480p") as card:
        assert check_extras([ExtraLora(file)], card) == []  # there is nothing to compare with
        plan = TransformerPlan(card, "transformer", SHAPE, SETTINGS, Resources(), extras=(read_header(file),))
        with pytest.raises(ModelError, match="made for another model"):
            plan.sample()


def test_plan_takes_a_transformer_as_one_file_as_edit_does(checkpoint: Path, tmp_path: Path) -> None:
    file = fp8_file(checkpoint / "transformer", tmp_path / "fp8.safetensors")
    size = ("plan", "--model", str(checkpoint), "--size", "64x64", "--frames", "9", "--rank", "2", "--json")
    found = [
        json.loads(CliRunner().invoke(app, [*size, *options]).stdout)["weights_bytes"]["train"]
        for options in ([], ["--transformer", str(file)])
    ]
    cards = read_card(checkpoint), read_card(checkpoint, {"transformer": file})
    assert found == [held_by_a_run(card, "transformer", Resources())[1] for card in cards]
    assert found[1] < found[0]


def test_plan_reads_the_header_of_a_file_for_a_model_without_weights(checkpoint: Path, tmp_path: Path) -> None:
    file = fp8_file(checkpoint / "transformer", tmp_path / "fp8.safetensors")
    size = ("plan", "--model", "hunyuanvideo-i2v", "--size", "64x64", "--frames", "9")
    refused = CliRunner().invoke(app, [*size, "--transformer", str(file)]).exception
    assert isinstance(refused, ModelError) and "of a Wan model only" in str(refused)
    with (
        open_skeleton("wan2.2-i2v-a14b") as card,
        pytest.raises(ModelError, match="is not what its configuration"),
    ):
        read_configuration(card.folder, {"transformer_2": file})
