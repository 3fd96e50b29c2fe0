"""Swapped blocks are on the device two at a time, in all passes of all families, and compute what they did before."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from parity import KINDS, save_with_card
from peft.tuners.lora import LoraLayer
from tiny import save_tiny_wan
from torch import Tensor, nn

from loraedit.diffusion.flow_matching import flow_matching_loss
from loraedit.families import open_family
from loraedit.families.base import Encoded, Family, batch
from loraedit.families.card import ModelCard, read_card
from loraedit.families.model_card import SingleFile
from loraedit.families.registry import record_of
from loraedit.lora.adapter import attach, lora_parameters
from loraedit.planning.skeleton import component_config
from loraedit.runtime.block_swap import BlockSwap, Copies, pack_blocks, swapped_buffers, swapped_indices
from loraedit.runtime.memory import blocks, checkpoints_kept, place, weights_held
from loraedit.settings import Resources

CPU = torch.device("cpu")
BLOCKS, SWAPPED = 5, 4
FAMILIES = {"wan": save_tiny_wan} | {
    name: lambda folder, kind=kind: save_with_card(kind, folder) for name, kind in KINDS.items()
}


@pytest.fixture(params=FAMILIES, scope="module")
def card(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ModelCard:
    return card_of(request.param, tmp_path_factory.mktemp("model"))


@pytest.fixture(params=["wan", "hunyuan, channels"], scope="module")
def one_or_two_kinds(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ModelCard:
    """Returns the card of a family with one kind of block, and of one with two."""
    return card_of(request.param, tmp_path_factory.mktemp("model"))


def card_of(name: str, folder: Path) -> ModelCard:
    """Returns a card whose transformer has five blocks of each kind."""
    FAMILIES[name](folder)
    card = read_card(folder)
    expert = card.experts[0]
    depths = dict.fromkeys(record_of(card.pipeline).block_counts, BLOCKS)
    deep = SingleFile(path=folder / expert, config={**card.config(expert), **depths})
    return card.model_copy(update={"files": {expert: deep}})


def transformer_of(card: ModelCard) -> nn.Module:
    """Returns a random transformer with a LoRA that has an effect."""
    kind, config = component_config(card, card.experts[0])
    torch.manual_seed(0)
    transformer: nn.Module = kind.from_config(config).requires_grad_(False)
    attach(transformer, open_family(card).lora_targets("all"), rank=2, seed=0)
    for name, parameter in lora_parameters(transformer):
        if name.endswith("lora_B"):
            nn.init.normal_(parameter, std=0.1)
    return transformer.train()


def sample_of(family: Family) -> Encoded:
    side = 4 * family.card.multiple_px // family.card.spatial
    generator = torch.Generator().manual_seed(0)
    shapes = family.encoded_shapes((3, side, side))
    return batch([Encoded(**{name: torch.randn(shape, generator=generator) for name, shape in shapes.items()})])


def train_step(family: Family, transformer: nn.Module, resources: Resources) -> dict[str, Tensor]:
    """Returns the gradients of a training step, and removes them."""
    sample = sample_of(family)
    assert sample.target is not None
    with checkpoints_kept(transformer, resources, CPU):
        velocity = family.velocity(transformer, sample.target, torch.tensor([500.0]), sample)
    flow_matching_loss(velocity, sample.target, torch.zeros_like(velocity), torch.ones_like(velocity)).backward()  # type: ignore[no-untyped-call]
    found = {name: p.grad for name, p in lora_parameters(transformer)}
    transformer.zero_grad()
    return {name: gradient for name, gradient in found.items() if gradient is not None}


def watch(transformer: nn.Module, on_event: Callable[[nn.Module], None]) -> None:
    """Calls ``on_event`` with the block whenever a layer of a block computes, or has a new gradient."""
    for block in blocks(transformer):
        for module in block.modules():
            if isinstance(module, LoraLayer):
                module.register_forward_pre_hook(lambda *_, block=block: on_event(block))
        for parameter in block.parameters():
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(lambda _, block=block: on_event(block))


def frozen(block: nn.Module) -> Iterator[Tensor]:
    yield from (tensor for tensor in block.parameters() if not tensor.requires_grad)


def test_never_more_than_two_swapped_blocks_are_on_the_device(card: ModelCard) -> None:
    resources = Resources(checkpointing=True, swap_blocks=SWAPPED)
    family, transformer = open_family(card, resources), transformer_of(card)
    count = len(list(blocks(transformer)))
    place(transformer, resources, CPU)
    on_host = {buffer.untyped_storage()._cdata for buffer in swapped_buffers(transformer)}
    live = []

    def on_event(computing: nn.Module) -> None:
        there = [all(p.untyped_storage()._cdata not in on_host for p in frozen(block)) for block in blocks(transformer)]
        assert all(p.untyped_storage()._cdata not in on_host for p in frozen(computing))
        live.append(sum(there))

    watch(transformer, on_event)
    for _ in range(2):
        train_step(family, transformer, resources)
    layers = sum(isinstance(module, LoraLayer) for module in transformer.modules())
    assert len(live) >= 7 * layers  # in two steps, they compute twice and have two gradients; the last may have less
    assert max(live) == count - SWAPPED + 2


def test_gradients_are_those_without_swapping(card: ModelCard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loraedit.runtime.host_checkpoints.WORTH_BYTES", 1)
    found = []
    for swap in (0, 3, BLOCKS):
        resources = Resources(checkpointing=True, swap_blocks=swap, offload_checkpoints=swap == BLOCKS)
        family, transformer = open_family(card, resources), transformer_of(card)
        place(transformer, resources, CPU)
        train_step(family, transformer, resources)
        with torch.inference_mode():  # as a preview during training
            sample = sample_of(family)
            assert sample.target is not None
            family.velocity(transformer, sample.target, torch.tensor([500.0]), sample)
        found.append(train_step(family, transformer, resources))
    for other in found[1:]:
        assert other.keys() == found[0].keys()
        for name, gradient in found[0].items():
            torch.testing.assert_close(other[name], gradient, rtol=0, atol=0)


def test_blocks_arrive_before_they_are_needed(one_or_two_kinds: ModelCard, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the first block, none is waited for, forwards and backwards, in training and in sampling."""
    resources = Resources(checkpointing=True, swap_blocks=SWAPPED)
    family, transformer = open_family(one_or_two_kinds, resources), transformer_of(one_or_two_kinds)
    place(transformer, resources, CPU)
    late: list[int] = []
    enter = BlockSwap.enter

    def watched(swap: BlockSwap, position: int) -> None:
        if swap._slot_of(position) is None:
            late.append(position)
        enter(swap, position)

    monkeypatch.setattr(BlockSwap, "enter", watched)
    for _ in range(2):
        train_step(family, transformer, resources)
    assert late == [0]
    sample = sample_of(family)
    assert sample.target is not None
    with torch.no_grad():
        for _ in range(2):
            family.velocity(transformer, sample.target, torch.tensor([500.0]), sample)
    assert late == [0]


class LateCopies(Copies):
    """Copies only when somebody waits, as a slow bus would."""

    def start(self, target: Tensor, source: Tensor) -> list[tuple[Tensor, Tensor]]:
        target.fill_(255)  # the old contents are gone at once
        return [(target, source)]

    def wait(self, copy: list[tuple[Tensor, Tensor]]) -> None:
        while copy:  # once: what is damaged afterwards stays so
            target, source = copy.pop()
            target.copy_(source)


def test_copies_may_be_as_late_as_they_like(one_or_two_kinds: ModelCard, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for late in (False, True):
        if late:
            monkeypatch.setattr("loraedit.runtime.block_swap.Copies", LateCopies)
        resources = Resources(checkpointing=True, swap_blocks=SWAPPED)
        family, transformer = open_family(one_or_two_kinds, resources), transformer_of(one_or_two_kinds)
        place(transformer, resources, CPU)
        found += [train_step(family, transformer, resources) for _ in range(2)]
    for name, gradient in found[1].items():
        torch.testing.assert_close(found[3][name], gradient, rtol=0, atol=0)


def test_held_weights_are_counted_where_they_are(one_or_two_kinds: ModelCard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loraedit.runtime.block_swap.ALIGNMENT", 8)
    plain, swapped = transformer_of(one_or_two_kinds), transformer_of(one_or_two_kinds)
    place(plain, Resources(), CPU)
    place(swapped, Resources(swap_blocks=SWAPPED), CPU)
    whole, parted = weights_held(plain), weights_held(swapped)
    largest = max(buffer.nbytes for buffer in swapped_buffers(swapped))
    assert whole.host == 0
    assert parted.host == sum(buffer.nbytes for buffer in swapped_buffers(swapped))
    assert parted.device + parted.host - 2 * largest == pytest.approx(whole.device, rel=0.01)


def test_packed_blocks_are_not_packed_again(one_or_two_kinds: ModelCard) -> None:
    transformer = transformer_of(one_or_two_kinds)
    pack_blocks(list(blocks(transformer)), SWAPPED, CPU)
    first = [p.data_ptr() for block in blocks(transformer) for p in frozen(block)]
    place(transformer, Resources(swap_blocks=SWAPPED), CPU)
    assert [p.data_ptr() for block in blocks(transformer) for p in frozen(block)] == first


def test_a_replaced_tensor_stays_on_the_device_and_the_others_where_they_are(one_or_two_kinds: ModelCard) -> None:
    transformer = transformer_of(one_or_two_kinds)
    pack_blocks(list(blocks(transformer)), SWAPPED, CPU)
    bias = next(p for name, p in list(blocks(transformer))[-1].named_parameters() if name.endswith("base_layer.bias"))
    bias.data = bias + 1  # as a LoRA with whole differences does
    first = {p.data_ptr() for block in blocks(transformer) for p in frozen(block)}
    place(transformer, Resources(swap_blocks=SWAPPED), CPU)
    assert {p.data_ptr() for block in blocks(transformer) for p in frozen(block)} == first
    assert bias.untyped_storage()._cdata not in {
        buffer.untyped_storage()._cdata for buffer in swapped_buffers(transformer)
    }


@pytest.mark.parametrize(
    ("blocks_in_all", "count", "indices"),
    [(4, 4, [0, 1, 2, 3]), (4, 2, [1, 3]), (5, 1, [4]), (8, 3, [2, 5, 7]), (3, 0, [])],
)
def test_swapped_blocks_are_spread_evenly(blocks_in_all: int, count: int, indices: list[int]) -> None:
    assert swapped_indices(blocks_in_all, count) == indices
