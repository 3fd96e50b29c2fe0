"""Wan's CPU kernels, the LoRA layer, merged LoRAs and generation in bfloat16 give the values of the plain path."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import WanTransformer3DModel
from diffusers.models.activations import GELU
from diffusers.models.attention import FeedForward
from diffusers.models.transformers.transformer_wan import WanAttention
from parity import CPU
from peft import LoraConfig
from torch import Tensor, nn
from torch.nn.functional import rms_norm, scaled_dot_product_attention

from loraedit.families.base import Encoded, Family, batch
from loraedit.families.lora_linear import LoraLinear
from loraedit.families.wan.cpu import SWITCH, attention, cpu_kernels_apply, feed_forward, use_plain_blocks
from loraedit.families.wan.cpu import rows as row_blocks
from loraedit.lora.adapter import _inject, as_autocast, attach, lora_parameters, merge, save_lora
from loraedit.planning.meter import Meter
from loraedit.runtime import devices
from loraedit.sampling.sampler import sample
from loraedit.settings import Resources, SamplingSettings


@pytest.fixture(scope="module")
def folder(checkpoint: Path) -> Path:
    return checkpoint


def _drawn(family: Family) -> tuple[Encoded, Tensor]:
    """Draws a condition, and latents of its shape."""
    generator = torch.Generator().manual_seed(0)
    c = family.card.latent_channels
    config = family.load_transformer(family.experts[0], CPU).config
    condition = torch.randn(int(config.in_channels) - c, 2, 4, 6, generator=generator)
    text = torch.randn(family.card.settings.text_tokens, int(config.text_dim), generator=generator)
    return Encoded(condition, text), torch.randn(1, c, 2, 4, 6, generator=generator)


def _double(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()


@pytest.mark.parametrize(("tile", "size"), [(2**19, 1.0), (40, 1.0), (12, 30.0)])
@pytest.mark.parametrize("words", [0, 5])
def test_attention_and_its_gradients_are_those_of_torch(
    tile: int, size: float, words: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "TILE", tile)
    monkeypatch.setattr(attention, "MIN_ROWS", 1)
    query, weight = _double(2, 7, 24), _double(2, 7, 24, seed=1)
    key, value = _double(2, words or 7, 24, seed=2), _double(2, words or 7, 24, seed=3)
    norms = [_double(24, seed=seed).detach().abs() * size for seed in (4, 5)]
    angles = _double(1, 7, 1, 4, seed=6).detach()
    turn = None if words else torch.polar(torch.ones_like(angles), angles)

    def by_torch(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        normed = [rms_norm(each, (24,), norm, 1e-6) for each, norm in zip((query, key), norms, strict=True)]
        turned = [attention._rotated(each, turn, 3) for each in normed]
        heads = (each.view(2, -1, 3, 8).transpose(1, 2) for each in (*turned, value))
        return scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)

    def by_us(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        mixed: Tensor = attention._Attention.apply(query, key, value, *norms, 1e-6, turn, 3)
        return mixed

    found = []
    for compute in (by_us, by_torch):
        mixed = compute(query, key, value)
        found.append([mixed, *torch.autograd.grad((mixed * weight).sum(), (query, key, value))])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("rows", [1024, 3])
@pytest.mark.parametrize("words", [0, 5])
def test_attention_without_gradients_says_the_same(words: int, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_blocks, "ROWS", rows)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layer = WanAttention(24, heads=3, dim_head=8, cross_attention_dim_head=8 if words else None).requires_grad_(
            False
        )
        x, text = torch.randn(2, 7, 24), torch.randn(2, words, 24)
    layer.to(torch.float64)
    attention.speed_up_attention(layer)
    angles = _double(1, 7, 1, 4).detach()
    turn = None if words else tuple(of(angles).repeat_interleave(2, -1) for of in (torch.cos, torch.sin))
    given = x.double(), text.double() if words else None, None, turn
    taught = layer(*given)
    with torch.inference_mode():
        torch.testing.assert_close(layer(*given), taught)


def test_the_table_of_scores_is_never_there_as_a_whole() -> None:
    length, heads = 1024, 4
    values = [torch.randn(1, length, 8 * heads).requires_grad_() for _ in range(3)]
    with Meter(nn.Module()) as meter:
        attention._Attention.apply(*values, torch.ones(32), torch.ones(32), 1e-6, None, heads).sum().backward()
    assert meter.peak < heads * length**2 * 4


@pytest.mark.parametrize(("rows", "tile"), [(1024, 2**16), (3, 20)])
def test_the_feed_forward_and_its_gradients_are_those_of_diffusers(
    rows: int, tile: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed_forward, "ROWS", rows)
    monkeypatch.setattr(row_blocks, "ROWS", rows)
    monkeypatch.setattr(feed_forward, "TILE", tile)
    layers = FeedForward(6, inner_dim=10, activation_fn="gelu-approximate").double().requires_grad_(False)
    _inject(LoraConfig(r=2, lora_alpha=4, target_modules=["proj", "2"]), layers, "default")
    adapter = [parameter for name, parameter in layers.named_parameters() if "lora_" in name]
    for index, parameter in enumerate(adapter):
        parameter.data = _double(*parameter.shape, seed=index).detach()
    x, weight, found = _double(2, 4, 6, seed=8), _double(2, 4, 6, seed=9), []
    for run in (lambda: feed_forward.feed_forward(layers, x), lambda: layers(x)):
        fed = run()
        found.append([fed, *torch.autograd.grad((fed * weight).sum(), (x, *adapter))])
    with torch.no_grad():
        torch.testing.assert_close(feed_forward.feed_forward(layers, x), found[0][0])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_a_layer_and_its_gradients_are_those_of_peft() -> None:
    layer = nn.Sequential(nn.Linear(6, 5)).double().requires_grad_(False)
    _inject(LoraConfig(r=2, lora_alpha=4, target_modules=["0"]), layer, "default")
    adapted = layer[0]
    assert isinstance(adapted, LoraLinear)
    down, up = (getattr(adapted, part)["default"].weight for part in ("lora_A", "lora_B"))
    down.data, up.data = _double(2, 6, seed=1).detach(), _double(5, 2, seed=2).detach()
    x, weight, found = _double(3, 4, 6), _double(3, 4, 5, seed=3), []
    assert adapted.single_adapter(x) is not None
    for forward in (adapted.forward, super(LoraLinear, adapted).forward):
        answer = forward(x)
        found.append([answer, *torch.autograd.grad((answer * weight).sum(), (x, down, up))])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_several_adapters_and_weights_in_another_precision_go_the_way_of_peft() -> None:
    layer = nn.Sequential(nn.Linear(6, 5)).requires_grad_(False)
    _inject(LoraConfig(r=2, target_modules=["0"]), layer, "default")
    adapted, x = layer[0], torch.randn(3, 6)
    assert isinstance(adapted, LoraLinear)
    with torch.autocast("cpu", torch.bfloat16):
        assert adapted.single_adapter(x) is None
        assert layer(x).dtype == torch.bfloat16
    _inject(LoraConfig(r=3, target_modules=["0"]), layer, "extra")
    adapted.set_adapter(["default", "extra"])
    assert adapted.single_adapter(x) is None


def test_the_transformer_says_what_diffusers_says(family: Family) -> None:
    expert = family.experts[0]
    condition, latents = _drawn(family)
    plain = WanTransformer3DModel.from_pretrained(family.card.folder, subfolder=expert.name)
    said = [
        family.velocity(each, latents, torch.tensor([500.0]), batch([condition]))
        for each in (family.load_transformer(expert, CPU), plain)
    ]
    torch.testing.assert_close(said[0], said[1], atol=1e-5, rtol=1e-5)


def test_the_switch_turns_the_kernels_off_for_a_transformer_and_for_a_run(
    family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    transformer = family.load_transformer(family.experts[0], CPU)
    plain = WanTransformer3DModel.from_pretrained(family.card.folder, subfolder=family.experts[0].name)
    condition, latents = _drawn(family)

    def velocity(transformer: nn.Module) -> Tensor:
        with torch.inference_mode():
            return family.velocity(transformer, latents, torch.tensor([500.0]), batch([condition]))

    use_plain_blocks(transformer)
    assert torch.equal(velocity(transformer), velocity(plain))
    monkeypatch.setenv(SWITCH, "off")
    assert torch.equal(velocity(family.load_transformer(family.experts[0], CPU)), velocity(plain))


@pytest.mark.parametrize("resources", [Resources(attention="native"), Resources(compile_blocks=True)])
def test_a_chosen_backend_and_compiled_blocks_run_the_code_of_diffusers(resources: Resources) -> None:
    assert cpu_kernels_apply(CPU, Resources()) and not cpu_kernels_apply(CPU, resources)
    assert not cpu_kernels_apply(torch.device("cuda"), Resources())


def test_a_merged_lora_says_the_same_and_leaves_plain_layers(family: Family) -> None:
    transformer = family.load_transformer(family.experts[0], CPU)
    condition, latents = _drawn(family)
    attach(transformer, family.lora_targets("all"), 2, 0)
    for _, parameter in lora_parameters(transformer):
        parameter.data = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 0.2
    args = latents, torch.tensor([500.0]), batch([condition])
    with torch.inference_mode():
        before = family.velocity(transformer, *args)
        merge(transformer)
        after = family.velocity(transformer, *args)
    assert not list(lora_parameters(transformer))
    torch.testing.assert_close(after, before, atol=1e-4, rtol=1e-4)


def test_bfloat16_moves_the_result_by_little(family: Family, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    transformer = family.load_transformer(family.experts[0], CPU)
    attach(transformer, family.lora_targets("all"), 2, 0)
    lora = tmp_path / "lora.safetensors"
    save_lora(lora, family, transformer, {})
    condition, _ = _drawn(family)
    settings = SamplingSettings(sampling_steps=3, guidance=1.0)
    about = {family.experts[0].name: lora}, CPU
    exact = sample(family, condition, None, settings, *about, tmp_path / "exact", lambda *_: None)
    monkeypatch.setattr(devices, "autocasts", lambda _: True)
    monkeypatch.setattr("loraedit.sampling.transformers.converts_weights", lambda _: True)
    rough = sample(family, condition, None, settings, *about, tmp_path / "rough", lambda *_: None)
    error = float((rough - exact).square().mean().sqrt() / exact.std())
    assert 0 < error < 0.03


def test_a_cpu_without_the_fused_step_gets_the_same_from_plain_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = GELU(8, 16, approximate="tanh").to(torch.bfloat16)
    x = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)

    def refused(*_: object) -> Tensor:
        raise RuntimeError("could not create a primitive descriptor for a matmul primitive")

    with torch.no_grad(), monkeypatch.context() as patch:
        patch.setattr(feed_forward, "_fused_gelu", refused)
        feed_forward._fuses_gelu.cache_clear()
        assert not feed_forward._fuses_gelu()
        assert torch.equal(feed_forward._activated(layer, x), layer(x))
    feed_forward._fuses_gelu.cache_clear()


def test_gradients_in_bfloat16_point_where_the_exact_ones_do(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    condition, latents = _drawn(family)
    found = []
    for half in (False, True):
        monkeypatch.setattr(devices, "autocasts", lambda _, half=half: half)
        transformer = family.load_transformer(family.experts[0], CPU)
        attach(transformer, family.lora_targets("all"), 2, 0)
        for index, (_, parameter) in enumerate(lora_parameters(transformer)):
            parameter.data = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(index)) * 0.1
        if half:
            as_autocast(transformer)
        with devices.training_precision(CPU):
            velocity = family.velocity(transformer, latents, torch.tensor([500.0]), batch([condition]))
        velocity.square().mean().backward()
        gradients = [parameter.grad for _, parameter in lora_parameters(transformer)]
        found.append(torch.cat([each.flatten() for each in gradients if each is not None]))
    assert torch.nn.functional.cosine_similarity(*found, dim=0) > 0.99
