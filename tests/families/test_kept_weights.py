"""Components are read once and stay in host memory; every use gets them as they were read."""

from __future__ import annotations

import gc
import shutil
import weakref
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from loraedit.families import open_family
from loraedit.families.base import Family
from loraedit.families.card import read_card
from loraedit.families.encoding import embed_prompt
from loraedit.families.kept_weights import ComponentRead, KeptWeights, keeping_weights
from loraedit.lora.adapter import attach, lora_parameters, merge
from loraedit.runtime.block_swap import swapped_buffers
from loraedit.runtime.memory import place
from loraedit.settings import Resources

CPU = torch.device("cpu")


def load(family: Family) -> nn.Module:
    return family.load_transformer(family.experts[0], CPU)


def places(module: nn.Module) -> set[int]:
    return {tensor.data_ptr() for tensor in (*module.parameters(), *module.buffers()) if tensor.numel()}


def test_a_transformer_is_read_once_and_given_clean_whatever_was_done_to_it(checkpoint: Path) -> None:
    family, readings = open_family(read_card(checkpoint)), list[ComponentRead]()
    plain = load(family).state_dict()
    with keeping_weights(readings.append):
        first = load(family)
        attach(first, family.lora_targets("all"), 2, 0)
        for name, parameter in lora_parameters(first):
            parameter.data += "lora_B" in name
        merge(first)
        place(first, Resources(checkpointing=True), CPU)
        second, third = load(family), load(family)
    found = second.state_dict()
    assert found.keys() == plain.keys() and all(torch.equal(found[name], plain[name]) for name in plain)
    assert not any(parameter.requires_grad for parameter in second.parameters())
    assert places(second) == places(third), "one copy in memory for all"
    (reading,) = readings
    assert reading.names == ("transformer",)
    assert reading.size_bytes == sum(tensor.nbytes for tensor in (*second.parameters(), *second.buffers()))


def test_quantised_weights_are_kept_apart_from_full_ones_and_shared(checkpoint: Path) -> None:
    card, readings = read_card(checkpoint), list[ComponentRead]()
    with keeping_weights(readings.append):
        full, first, second = (load(open_family(card, Resources(weights=kind))) for kind in ("full", "int8", "int8"))
        assert places(first) == places(second) and not places(first) & places(full)
    assert len(readings) == 2 and readings[1].size_bytes < 0.7 * readings[0].size_bytes


def test_swapped_blocks_are_in_host_memory_once_for_all_uses(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loraedit.families.loading.converts_weights", lambda _: False)  # as on a GPU
    resources, readings = Resources(swap_blocks=2), list[ComponentRead]()
    family = open_family(read_card(checkpoint), resources)
    with keeping_weights(readings.append):
        first, second = load(family), load(family)
        for each in (first, second):
            attach(each, family.lora_targets("all"), 2, 0)
            place(each, resources, CPU)
    assert len(readings) == 1
    one, other = ([buffer.data_ptr() for buffer in swapped_buffers(each)] for each in (first, second))
    assert one == other and len(one) == 2


def test_a_single_file_is_read_once(checkpoint: Path) -> None:
    file, readings = checkpoint / "transformer/diffusion_pytorch_model.safetensors", list[ComponentRead]()
    family = open_family(read_card(checkpoint, {"transformer": file}))
    with keeping_weights(readings.append):
        assert places(load(family)) == places(load(family))
    assert len(readings) == 1


def test_what_is_read_while_gradients_are_off_serves_a_training(checkpoint: Path) -> None:
    family = open_family(read_card(checkpoint))
    with keeping_weights():
        with torch.inference_mode():
            load(family)
        trained = load(family)
        attach(trained, family.lora_targets("all"), 2, 0)
        assert not any(tensor.is_inference() for tensor in trained.state_dict().values())


def test_what_is_kept_is_free_after_the_outermost_context(checkpoint: Path) -> None:
    family = open_family(read_card(checkpoint))
    with keeping_weights():
        kept = weakref.ref(next(load(family).parameters()).untyped_storage())
        with keeping_weights():
            assert kept() is not None and kept().data_ptr() in places(load(family))
    gc.collect()
    assert kept() is None


def test_reloaded_weights_are_not_kept(checkpoint: Path) -> None:
    card, readings = read_card(checkpoint), list[ComponentRead]()
    with keeping_weights(readings.append):
        load(open_family(card))
        again = open_family(card, Resources(reload_weights=True))
        first = weakref.ref(load(again))
        assert first() is None
        load(again)
    assert [reading.names for reading in readings] == [("transformer",)] * 3


def test_an_encoder_is_kept_only_between_edits(every: dict[str, Path]) -> None:
    for folder in every.values():
        for kept, times in ((KeptWeights(), 2), (KeptWeights(between_edits=True), 1)):
            family, readings = open_family(read_card(folder)), list[ComponentRead]()
            for prompt in ("one", "two"):
                with keeping_weights(readings.append, kept):
                    embed_prompt(family, prompt, CPU)
            assert [name for reading in readings for name in reading.names].count("text_encoder") == times


def test_weights_of_a_checkpoint_that_changed_are_read_again(checkpoint: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(checkpoint, tmp_path / "model")
    file = folder / "transformer/diffusion_pytorch_model.safetensors"
    with keeping_weights(kept=KeptWeights(between_edits=True)):
        before = load(open_family(read_card(folder))).state_dict()
        save_file({name: value + 1 for name, value in load_file(file).items()}, file)
        after = load(open_family(read_card(folder))).state_dict()
    assert all(not torch.equal(value, after[name]) for name, value in before.items())
