"""Layers with quantised weights: near the full ones, small, and with exact gradients for what they hold."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig
from quantised_weights import ALL_KINDS, BITS, NF4, stored
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from loraedit.families.lora_linear import LoraLinear
from loraedit.families.quantised import QuantisedLinear, ScaledWeight, empty_weight, parameter_shapes, quantise
from loraedit.lora.adapter import _add_differences, _inject, merge
from loraedit.lora.matching import MatchedLora

WIDTH, OUT = 512, 24
ERROR = {"fp8": 0.03, "int8": 0.01, "nf4": 0.1, "Q8_0": 0.006, "Q6_K": 0.02, "Q5_K": 0.04, "Q4_K": 0.08}
"""The largest relative error of normally distributed weights."""


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def layer_of(kind: str) -> QuantisedLinear:
    weight = stored(0.02 * random(OUT, WIDTH), kind)
    return QuantisedLinear(weight, nn.Parameter(random(OUT), requires_grad=False))


def adapted(kind: str, *adapters: str) -> tuple[nn.Sequential, list[Tensor]]:
    """Returns a model of one layer with LoRAs that have an effect, and their matrices."""
    model = nn.Sequential(layer_of(kind))
    for number, name in enumerate(adapters):
        _inject(LoraConfig(r=2 + number, lora_alpha=3, target_modules=["0"]), model, name)
    matrices = [parameter for name, parameter in model.named_parameters() if "lora_" in name]
    for number, parameter in enumerate(matrices):
        parameter.data = 0.1 * random(*parameter.shape, seed=number)
        parameter.requires_grad_(True)
    model[0].set_adapter(list(adapters))
    return model, matrices


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_a_weight_stays_near_in_few_bits(kind: str) -> None:
    weight = 0.02 * random(256, WIDTH)
    weight[3], weight[5] = 0, weight[5].abs()
    held = stored(weight, kind)
    assert held.kind == kind and held.shape == weight.shape
    exact, half = held.dequantised(torch.float32), held.dequantised(torch.bfloat16)
    assert (exact - weight).norm() < ERROR[kind] * weight.norm()
    assert (half.float() - exact).norm() < 0.002 * exact.norm(), "rounded once, or nearly so"
    assert not exact[3].any()
    size = sum(parameter.nbytes for parameter in held.parameters())
    assert size <= 1.02 * weight.numel() * BITS[kind] / 8
    assert not any(parameter.requires_grad for parameter in held.parameters())


def test_scaled_fp8_is_rounded_as_its_product_is() -> None:
    codes = random(OUT, WIDTH).to(torch.float8_e4m3fn)
    for scale in (torch.tensor(0.0123), torch.rand(OUT), torch.rand(OUT, 1)):
        expected = codes.float() * scale.view(-1, 1)
        assert torch.equal(ScaledWeight(codes, scale).dequantised(torch.bfloat16), expected.bfloat16())
    assert torch.equal(ScaledWeight(codes).dequantised(torch.bfloat16), codes.bfloat16())


@pytest.mark.parametrize("kind", ALL_KINDS)
@pytest.mark.parametrize("adapters", [(), ("default",), ("default", "extra")], ids=["bare", "one", "several"])
@pytest.mark.parametrize("half", [False, True], ids=["float32", "autocast"])
def test_values_and_gradients_are_those_of_the_expanded_weight(
    kind: str, adapters: tuple[str, ...], half: bool
) -> None:
    model, matrices = adapted(kind, *adapters) if adapters else (nn.Sequential(layer_of(kind)), [])
    x, weight, found = random(3, 4, WIDTH, seed=9).requires_grad_(True), random(3, 4, OUT, seed=8), []
    for expand in (False, True):
        if expand:
            quantised: Any = model[0].base_layer if adapters else model[0]
            plain = quantised.expanded(torch.bfloat16 if half else torch.float32)
            model.set_submodule("0.base_layer" if adapters else "0", plain)
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            answer = model(x)
        found.append([answer, *torch.autograd.grad((answer * weight).sum(), [x, *matrices])])
    for ours, theirs in zip(*found, strict=True):
        assert ours.dtype == theirs.dtype
        torch.testing.assert_close(ours, theirs, **({"rtol": 0.02, "atol": 0.02} if half else {}))


@pytest.mark.parametrize("kind", ["int8", "Q4_K"])
@pytest.mark.parametrize("adapters", [(), ("default",), ("default", "extra")], ids=["bare", "one", "several"])
def test_nothing_dequantised_is_saved_for_the_gradient(kind: str, adapters: tuple[str, ...]) -> None:
    model = adapted(kind, *adapters)[0] if adapters else nn.Sequential(layer_of(kind))
    saved: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: saved.append(tensor) or tensor, lambda tensor: tensor):
        model(random(3, WIDTH).requires_grad_(True))
    assert all(tensor.numel() < OUT * WIDTH for tensor in saved)


def test_one_adapter_takes_one_step_and_several_go_the_way_of_peft() -> None:
    one, several = adapted("int8", "default")[0][0], adapted("int8", "default", "extra")[0][0]
    assert isinstance(one, LoraLinear) and isinstance(several, LoraLinear)
    assert one.single_adapter(random(1, WIDTH)) is not None
    assert several.single_adapter(random(1, WIDTH)) is None


def test_loras_are_not_merged_into_quantised_weights() -> None:
    model, _ = adapted("int8", "default")
    before, x = model[0].base_layer.stored.codes.clone(), random(2, WIDTH)
    answer = model(x)
    merge(model)
    assert torch.equal(model[0].base_layer.stored.codes, before)
    assert torch.equal(model(x), answer)


def test_a_whole_difference_expands_the_weight_that_it_changes() -> None:
    for adapters in ((), ("default",)):
        model = adapted("int8", *adapters)[0] if adapters else nn.Sequential(layer_of("int8"))
        model.append(nn.Linear(OUT, 1))  # whose precision is that of the model
        x, difference = random(2, WIDTH), 0.1 * random(OUT, WIDTH, seed=4)
        before = model[0](x)
        changes = {"0.weight": difference, "0.bias": torch.ones(OUT)}
        _add_differences(model, MatchedLora({}, changes, []), 0.5)
        torch.testing.assert_close(model[0](x), before + 0.5 * (x @ difference.mT + 1))


def test_shapes_are_those_of_the_plain_model() -> None:
    plain = nn.Sequential(nn.Linear(WIDTH, OUT), nn.Linear(OUT, 2, bias=False))
    quantised = nn.Sequential(layer_of("Q4_K"), plain[1])
    assert parameter_shapes(quantised) == {name: tuple(each.shape) for name, each in plain.named_parameters()}


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_layers_without_contents_compute_on_fake_tensors(kind: str) -> None:
    real = layer_of(kind)
    with FakeTensorMode():
        fake = QuantisedLinear(empty_weight((OUT, WIDTH), kind, torch.device("cpu")), None)
        facts = [(each.shape, each.dtype, each.requires_grad) for each in fake.stored.parameters()]
        assert facts == [(each.shape, each.dtype, each.requires_grad) for each in real.stored.parameters()]
        x = torch.empty(2, WIDTH, dtype=torch.bfloat16, requires_grad=True)
        answer = fake(x)
        assert answer.shape == (2, OUT) and answer.dtype == torch.bfloat16
        answer.sum().backward()
        assert x.grad is not None


@pytest.mark.parametrize("kind", ["fp8", "int8"])
def test_the_largest_weight_keeps_its_value(kind: str) -> None:
    weight = random(4, 8)
    largest = weight.abs().amax()
    assert quantise(weight, kind).dequantised(torch.float32).abs().amax() == pytest.approx(float(largest), rel=1e-6)


@pytest.mark.parametrize("kind", ["fp8", NF4, "Q4_K"])
def test_layers_compile_without_a_break(kind: str) -> None:
    layer, x = layer_of(kind), random(2, WIDTH).requires_grad_(True)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    found = [torch.autograd.grad(run(x).sum(), x)[0] for run in (layer, compiled)]
    torch.testing.assert_close(*found)
