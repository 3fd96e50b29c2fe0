"""Every means of saving memory gives the gradients of the plain run, and takes less where a CPU can show it."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.models.transformers.transformer_wan import WanTransformerBlock
from scenes import Scene
from torch import Tensor, nn

import loraedit
from loraedit.diffusion.flow_matching import flow_matching_loss
from loraedit.errors import InputError
from loraedit.families import open_family
from loraedit.families.base import Encoded, Family, batch
from loraedit.families.card import NANO, read_card
from loraedit.lora.adapter import lora_parameters
from loraedit.planning.meter import Meter
from loraedit.runtime.memory import blocks, checkpoints_kept, place, place_encoder, weights_held
from loraedit.settings import Resources, TrainSettings, WeightStore, make_settings
from loraedit.training import Stage, train
from scripts.gpu_check import with_lora

CPU = torch.device("cpu")
NF4 = pytest.param(
    "nf4", 0.2, 0.98, marks=pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="needs bitsandbytes")
)
EXACT = {
    "checkpointing": Resources(checkpointing=True),
    "checkpoints on the host": Resources(checkpointing=True, offload_checkpoints=True),
    "blocks on the host": Resources(checkpointing=True, swap_blocks=6),
    "all of it": Resources(checkpointing=True, swap_blocks=6, offload_checkpoints=True),
    "attention backend": Resources(training_attention="native"),
}


def family_with(resources: Resources) -> Family:
    return open_family(read_card(NANO), resources)


def sample_of(family: Family) -> Encoded:
    generator = torch.Generator().manual_seed(0)
    c, m = family.card.latent_channels, family.card.temporal
    shape = (5, 8, 8)
    text = torch.randn(family.card.settings.text_tokens, 64, generator=generator)
    condition, target = torch.rand(m + c, *shape, generator=generator), torch.randn(c, *shape, generator=generator)
    return Encoded(condition, text, None, target)


def gradients(resources: Resources, metered: bool = True) -> tuple[dict[str, Tensor], Meter, nn.Module]:
    """Runs one backward pass of nano with a LoRA that is not zero; returns its gradients and what it took."""
    family = family_with(resources)
    transformer = with_lora(family, CPU)
    place(transformer, resources, CPU, resources.training_attention)
    transformer.train()
    together = batch([sample_of(family)])
    assert together.target is not None
    meter = Meter(transformer)
    with meter if metered else nullcontext():
        with checkpoints_kept(transformer, resources, CPU):
            velocity = family.velocity(transformer, together.target, torch.tensor([500.0]), together)
        loss = flow_matching_loss(velocity, together.target, torch.zeros_like(velocity), torch.ones_like(velocity))
        torch.autograd.backward(loss)
    found = {name: parameter.grad for name, parameter in lora_parameters(transformer)}
    return {name: gradient for name, gradient in found.items() if gradient is not None}, meter, transformer


@pytest.fixture(scope="module")
def plain() -> tuple[dict[str, Tensor], Meter, nn.Module]:
    return gradients(Resources())


def stored_bytes(transformer: nn.Module) -> int:
    return sum(p.numel() * p.element_size() for block in blocks(transformer) for p in block.parameters())


@pytest.mark.parametrize("name", EXACT)
def test_gradients_are_those_of_the_plain_run(name: str, plain: tuple[dict[str, Tensor], Meter, nn.Module]) -> None:
    found, _, _ = gradients(EXACT[name])
    assert found.keys() == plain[0].keys()
    for key, gradient in plain[0].items():
        torch.testing.assert_close(found[key], gradient, rtol=1e-4, atol=1e-7)


@pytest.mark.filterwarnings("ignore")  # torch's tracing warns, and only raising shows it
def test_compiled_blocks_give_the_gradients_of_the_plain_run(
    plain: tuple[dict[str, Tensor], Meter, nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Traced without a break, and run as it is traced: a machine that tests need not have a compiler."""
    graphs = []

    def count(module: torch.fx.GraphModule, _inputs: list[Tensor]) -> Any:
        graphs.append(module)
        return module.forward

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=count))
    found, _, _ = gradients(Resources(compile_blocks=True), metered=False)
    assert 1 <= len(graphs) < 6  # fewer than there are blocks: one compiled block serves all
    assert found.keys() == plain[0].keys()
    for key, gradient in plain[0].items():
        torch.testing.assert_close(found[key], gradient, rtol=1e-4, atol=1e-7)


def test_recomputing_takes_less_memory_and_more_operations(plain: tuple[dict[str, Tensor], Meter, nn.Module]) -> None:
    _, meter, _ = gradients(Resources(checkpointing=True))
    assert meter.peak < 0.5 * plain[1].peak
    assert 1.2 * plain[1].flops < meter.flops < 1.7 * plain[1].flops


@pytest.mark.parametrize(("weights", "share", "alike"), [("fp8", 0.3, 0.995), ("int8", 0.3, 0.999), NF4])
def test_quantised_weights_take_less_and_keep_the_gradients_close(
    weights: WeightStore, share: float, alike: float, plain: tuple[dict[str, Tensor], Meter, nn.Module]
) -> None:
    found, _, transformer = gradients(Resources(weights=weights))
    assert stored_bytes(transformer) < share * stored_bytes(plain[2])
    ours, theirs = (torch.cat([each[key].flatten() for key in plain[0]]) for each in (found, plain[0]))
    assert torch.nn.functional.cosine_similarity(ours, theirs, dim=0) > alike
    assert all(p.dtype == torch.float32 for _, p in lora_parameters(transformer))


def test_quantised_blocks_swap_like_any_others() -> None:
    resident, _, _ = gradients(Resources(weights="int8"))
    swapped, _, _ = gradients(Resources(weights="int8", swap_blocks=4))
    for key, gradient in resident.items():
        torch.testing.assert_close(swapped[key], gradient, rtol=1e-4, atol=1e-7)


def test_training_with_blocks_on_the_host_gives_the_same_lora(tmp_path: Path) -> None:
    def trained(resources: Resources) -> list[Tensor]:
        family = family_with(resources)
        transformer = family.load_transformer(family.experts[0], CPU)
        settings = TrainSettings(steps=2, rank=2, lr=1e-2)
        stage = Stage([sample_of(family)], [1])
        state = tmp_path / f"{resources.swap_blocks}.safetensors"
        train(family, family.experts[0], transformer, stage, settings, state, lambda *_: None, CPU)
        return [parameter.detach() for _, parameter in lora_parameters(transformer)]

    for ours, plain in zip(trained(EXACT["all of it"]), trained(Resources()), strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-3, atol=1e-4)


def test_tiles_of_the_vae_take_less_memory_and_decode_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    from diffusers import AutoencoderKLWan

    monkeypatch.setattr(  # tiles of nano's own measure: the usual ones are larger than its frames
        AutoencoderKLWan, "enable_tiling", lambda vae: _tile(vae, 32, 24)
    )
    latents = torch.from_numpy(np.random.default_rng(0).standard_normal((16, 3, 24, 24), np.float32)) * 0.3
    pictures, peaks = [], []
    for tiled in (False, True):
        with Meter(nn.Module()) as meter:
            pictures.append(family_with(Resources(tile_vae=tiled)).decode(latents, CPU))
        peaks.append(meter.peak)
    assert peaks[1] < 0.7 * peaks[0]
    assert np.abs(pictures[0] - pictures[1]).mean() < 0.1


def _tile(vae: object, side: int, stride: int) -> None:
    vae.use_tiling = True  # type: ignore[attr-defined]
    for name in ("height", "width"):
        setattr(vae, f"tile_sample_min_{name}", side)
        setattr(vae, f"tile_sample_stride_{name}", stride)


@pytest.mark.parametrize("backend", ["no_such_backend", "flash_hub"])
def test_an_attention_backend_that_cannot_be_used_is_refused(backend: str) -> None:
    family = family_with(Resources())
    transformer = family.load_transformer(family.experts[0], CPU)
    with pytest.raises(InputError, match="attention backend"):
        place(transformer, Resources(), CPU, backend)


def test_training_and_its_previews_use_the_backend_of_training_and_sampling_its_own(
    checkpoint: Path, scene: Scene
) -> None:
    seen: list[tuple[bool, str]] = []

    def see(module: nn.Module, _given: tuple[object, ...]) -> None:
        if isinstance(module, WanTransformerBlock):
            seen.append((torch.is_grad_enabled(), str(module.attn1.processor._attention_backend.value)))

    handle = nn.modules.module.register_module_forward_pre_hook(see)
    asked = {"steps": 2, "preview_every": 1, "attention": "native", "training_attention": "_native_math"}
    loraedit.edit(scene.source, scene.edited_first, scene.mask, model=str(checkpoint), **asked)  # type: ignore[arg-type]
    handle.remove()
    trained = max(index for index, (training, _) in enumerate(seen) if training)
    first = next(index for index, (_, backend) in enumerate(seen) if backend == "native")
    assert {backend for _, backend in seen[:first]} == {"_native_math"} and trained < first
    assert any(not training for training, _ in seen[:trained])  # a preview
    assert set(seen[first:]) == {(False, "native")}


def test_what_the_user_sets_wins_over_what_was_chosen() -> None:
    chosen = Resources(checkpointing=True, swap_blocks=6)
    assert make_settings({"swap_blocks": 0, "weights": "fp8"}).resources(chosen) == Resources(
        checkpointing=True, weights="fp8"
    )
    assert Resources(checkpointing=True, swap_blocks=6).alters(quantised=True) == {}
    assert Resources(weights="fp8", tile_vae=True).alters(quantised=False) == {"weights": "fp8", "tile_vae": True}


def test_full_weights_are_those_of_a_file_that_is_not_quantised() -> None:
    full = Resources(weights="full")
    assert full.alters(quantised=False) == {} and full.alters(quantised=True) == {"weights": "full"}


def test_a_step_cache_skips_blocks_and_stays_near(tmp_path: Path) -> None:
    from loraedit.sampling.sampler import sample
    from loraedit.settings import SamplingSettings

    family, found, flops = family_with(Resources()), [], []
    condition = sample_of(family)
    negative = {"text": torch.zeros_like(condition.text)}
    for threshold in (0.0, 0.2):
        settings = SamplingSettings(sampling_steps=6, guidance=2.0, step_cache=threshold)
        with Meter(nn.Module()) as meter:
            steps = tmp_path / str(threshold)
            found.append(sample(family, condition, negative, settings, {}, CPU, steps, lambda *_: None))
        flops.append(meter.flops)
    assert flops[1] < 0.9 * flops[0]
    assert torch.nn.functional.cosine_similarity(*(each.flatten() for each in found), dim=0) > 0.8


def test_an_offloaded_encoder_has_two_layers_on_the_device_and_gives_the_same() -> None:
    from transformers import UMT5Config, UMT5EncoderModel

    torch.manual_seed(0)
    config = UMT5Config(vocab_size=50, d_model=32, d_kv=8, d_ff=64, num_layers=5, num_heads=4)
    plain, tokens = UMT5EncoderModel(config).eval(), torch.arange(20)[None]
    offloaded = copy.deepcopy(plain)
    place_encoder(plain, Resources(), CPU)
    place_encoder(offloaded, Resources(offload_encoders=True), CPU)
    with torch.inference_mode():
        for _ in range(2):
            assert torch.equal(offloaded(tokens)[0], plain(tokens)[0])
    layer = sum(p.nbytes for p in plain.encoder.block[1].parameters())
    held = weights_held(offloaded)
    assert held.host >= 5 * layer
    assert held.device < weights_held(plain).device - 2 * layer
