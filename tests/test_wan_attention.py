"""Attention written out, LoRAs merged, generation in bfloat16: faster, and the same values."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import WanTransformer3DModel
from parity import CPU
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from loraedit import devices
from loraedit.config import SamplingSettings
from loraedit.families import wan_attention as written
from loraedit.families.base import Encoded, Family, batch
from loraedit.generate import sample
from loraedit.lora import attach, lora_parameters, merge, save_lora


@pytest.fixture(scope="module")
def folder(checkpoint: Path) -> Path:
    return checkpoint


def _drawn(family: Family) -> tuple[Encoded, Tensor]:
    """A condition, and latents of its shape."""
    generator = torch.Generator().manual_seed(0)
    c = family.card.latent_channels
    config = family.load_transformer(family.experts[0], CPU).config
    condition = torch.randn(int(config.in_channels) - c, 2, 4, 6, generator=generator)
    text = torch.randn(family.card.settings.text_tokens, int(config.text_dim), generator=generator)
    return Encoded(condition, text), torch.randn(1, c, 2, 4, 6, generator=generator)


def test_values_and_gradients_are_those_of_torch() -> None:
    generator = torch.Generator().manual_seed(0)
    query, key, value, weight = (
        torch.randn(2, 3, 7, 8, generator=generator, dtype=torch.float64, requires_grad=True) for _ in range(4)
    )
    found = []
    for attention in (written._attend, scaled_dot_product_attention):
        mixed = attention(query, key, value)
        found.append([mixed, *torch.autograd.grad((mixed * weight).sum(), (query, key, value))])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_a_long_sequence_takes_the_fused_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(written, "MOST_SCORES", 3 * 7 * 7 - 1)
    values = torch.randn(1, 3, 7, 8, requires_grad=True)
    made_by = written._attend(values, values, values).grad_fn
    assert made_by is not None and "ScaledDotProduct" in made_by.name()


def test_the_transformer_says_what_diffusers_says(family: Family) -> None:
    expert = family.experts[0]
    condition, latents = _drawn(family)
    plain = WanTransformer3DModel.from_pretrained(family.card.folder, subfolder=expert.name)
    said = [
        family.velocity(each, latents, torch.tensor([500.0]), batch([condition]))
        for each in (family.load_transformer(expert, CPU), plain)
    ]
    torch.testing.assert_close(said[0], said[1], atol=1e-5, rtol=1e-5)


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
    monkeypatch.setattr("loraedit.generate.autocasts", lambda _: True)
    rough = sample(family, condition, None, settings, *about, tmp_path / "rough", lambda *_: None)
    error = float((rough - exact).square().mean().sqrt() / exact.std())
    assert 0 < error < 0.03
