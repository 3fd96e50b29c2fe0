"""Parity with diffusers' own pipeline, for every option of the Wan I2V family and for nano."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import WanImageToVideoPipeline
from PIL import Image

from loraedit.compose import to_float, to_uint8
from loraedit.conditioning import inference_condition
from loraedit.config import SamplingSettings
from loraedit.families import open_family
from loraedit.families.base import Encoded, Family, batch
from loraedit.families.card import NANO, read_card
from loraedit.generate import initial_noise, sample
from loraedit.lora import attach, lora_parameters
from loraedit.types import Frames

CPU = torch.device("cpu")
FRAMES, HEIGHT, WIDTH = 5, 32, 48
NAMES = ["plain", "wan21", "wan22", "nano-like", "nano"]


@pytest.fixture(scope="session")
def folders(checkpoints: dict[str, Path]) -> dict[str, Path]:
    return {**checkpoints, "nano": NANO}


def picture() -> Frames:
    low = np.random.default_rng(1).integers(0, 256, (4, 6, 3), np.uint8)
    return np.asarray(Image.fromarray(low).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC))[None]


def plain_condition(family: Family) -> Encoded:
    """Plain I2V: the first frame kept, all else generated."""
    source = np.repeat(to_float(picture()), FRAMES, 0)
    everything = np.ones((FRAMES, HEIGHT, WIDTH), bool)
    condition = inference_condition(source, source[:1], everything, "a red coat")
    return family.encode([condition], CPU, lambda *_: None)[0]


@pytest.mark.parametrize("name", NAMES)
def test_packed_condition_equals_diffusers_own_to_the_bit(folders: dict[str, Path], name: str) -> None:
    family = open_family(read_card(folders[name]))
    ours = plain_condition(family).condition
    pipeline = WanImageToVideoPipeline.from_pretrained(folders[name], dtype=torch.float32)
    image = pipeline.video_processor.preprocess(Image.fromarray(picture()[0]), height=HEIGHT, width=WIDTH)
    channels = family.card.latent_channels
    with torch.inference_mode():
        _, theirs = pipeline.prepare_latents(image, 1, channels, HEIGHT, WIDTH, FRAMES, torch.float32, CPU)
    assert torch.equal(ours, theirs[0])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_sampler_equals_diffusers_own_pipeline(
    folders: dict[str, Path], name: str, guidance: float, tmp_path: Path
) -> None:
    family = open_family(read_card(folders[name]))
    condition = plain_condition(family)
    steps = 12 if name == "wan22" else 4  # enough steps to cross the boundary between the experts
    negative = family.embed_prompt("", CPU)
    settings = SamplingSettings(sampling_steps=steps, guidance=guidance, seed=5)
    latents = sample(family, condition, negative, settings, {}, CPU, tmp_path / "steps", lambda *_: None)
    pixels = family.decode(latents, CPU)
    pipeline = WanImageToVideoPipeline.from_pretrained(folders[name], dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(
        Image.fromarray(picture()[0]), "a red coat", "", HEIGHT, WIDTH, FRAMES, steps, guidance,
        latents=initial_noise(tuple(latents.shape), 5)[None], output_type="np",
        max_sequence_length=family.card.settings.text_tokens,
    ).frames[0]  # fmt: skip
    assert np.abs((pixels + 1) / 2 - theirs).max() < 1e-4


def test_two_experts_meet_at_the_boundary(checkpoints: dict[str, Path]) -> None:
    high, low = open_family(read_card(checkpoints["wan22"])).experts
    assert (high.name, high.low, high.high) == ("transformer", 0.9, 1.0)
    assert (low.name, low.low, low.high) == ("transformer_2", 0.0, 0.9)


@pytest.mark.parametrize("name", ["plain", "wan21"])
def test_a_bfloat16_transformer_gives_a_velocity_and_gradients(checkpoints: dict[str, Path], name: str) -> None:
    family = open_family(read_card(checkpoints[name]))
    condition = plain_condition(family)
    transformer = family.load_transformer(family.experts[0], CPU)
    full = family.velocity(transformer, condition.condition[None, -4:], torch.tensor([500.0]), batch([condition]))
    folder = checkpoints[name] / "transformer"
    half = type(transformer).from_pretrained(folder, dtype=torch.bfloat16).requires_grad_(False)
    half.enable_gradient_checkpointing()
    attach(half, family.lora_targets("all"), rank=2, seed=0)
    velocity = family.velocity(half.train(), condition.condition[None, -4:], torch.tensor([500.0]), batch([condition]))
    assert velocity.dtype == torch.float32
    assert (velocity - full).abs().max() < 0.1
    velocity.sum().backward()
    assert all(p.grad is not None and p.dtype == torch.float32 for _, p in lora_parameters(half))


def test_without_a_boundary_the_second_expert_is_not_used(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(checkpoints["wan22"], tmp_path / "model")
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({**index, "boundary_ratio": None}))
    assert [expert.name for expert in open_family(read_card(folder)).experts] == ["transformer"]


def test_nano_reconstructs_a_still_picture() -> None:
    family = open_family(read_card(NANO))
    source = np.repeat(to_float(picture()), FRAMES, 0)
    everything = np.ones((FRAMES, HEIGHT, WIDTH), bool)
    kept = inference_condition(source, source[:1], ~everything, "")
    encoded = family.encode([kept], CPU, lambda *_: None)[0]
    latents = encoded.condition[family.card.temporal :]
    error = to_uint8(family.decode(latents, CPU)).astype(float) - np.repeat(picture(), FRAMES, 0)
    assert 10 * np.log10(255**2 / np.square(error).mean()) > 24
