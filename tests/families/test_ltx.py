"""LTX-Video: parity with diffusers' own condition pipeline, and the effect of the mask."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import LTXConditionPipeline
from parity import (
    CPU,
    PROMPT,
    check_lora_in_diffusers,
    encode,
    generate,
    noise,
    picture,
    plain_sample,
)
from PIL import Image

from loraedit.families.base import Encoded, Family, batch

FRAMES, HEIGHT, WIDTH = 17, 64, 96


@pytest.fixture(scope="module")
def folder(others: dict[str, Path]) -> Path:
    return others["ltx"]


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # in the pipeline
@pytest.mark.parametrize(("guidance", "rate"), [(1.0, 25.0), (3.0, 12.0)])
def test_sampler_equals_diffusers_own_pipeline(family: Family, guidance: float, rate: float, tmp_path: Path) -> None:
    sample = replace(plain_sample(FRAMES, HEIGHT, WIDTH), frame_rate=rate)
    latents = generate(family, encode(family, sample), 4, guidance, tmp_path)
    pixels = family.decode(latents, CPU)
    pipeline = LTXConditionPipeline.from_pretrained(family.card.folder, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(
        image=Image.fromarray(picture(HEIGHT, WIDTH)[0]), prompt=PROMPT, negative_prompt="", height=HEIGHT,
        width=WIDTH, num_frames=FRAMES, num_inference_steps=4, guidance_scale=guidance, image_cond_noise_scale=0.0,
        generator=torch.Generator().manual_seed(5), decode_timestep=0.05, decode_noise_scale=0.0, output_type="np",
        max_sequence_length=8, frame_rate=rate,
    ).frames[0]  # fmt: skip
    assert np.abs(np.clip((pixels + 1) / 2, 0, 1) - theirs).max() < 1e-4


def test_the_frame_rate_is_the_samples_own_or_else_the_models(family: Family) -> None:
    plain = plain_sample(FRAMES, HEIGHT, WIDTH)
    samples = [encode(family, replace(plain, frame_rate=rate)) for rate in (None, 25.0, 12.0)]
    transformer, start = family.load_transformer(family.experts[0], CPU), noise(family, samples[0])

    def velocity(*given: Encoded) -> torch.Tensor:
        with torch.inference_mode():
            times = torch.full((len(given),), 500.0)
            return family.velocity(transformer, start.repeat(len(given), 1, 1, 1, 1), times, batch(given))

    own, same, slower = (velocity(sample) for sample in samples)
    assert torch.equal(own, same)
    assert (own - slower).abs().max() > 1e-4
    torch.testing.assert_close(velocity(samples[1], samples[2]), torch.cat([same, slower]), atol=1e-5, rtol=0)


def test_the_lora_loads_into_diffusers_and_gives_the_same_velocity(family: Family, tmp_path: Path) -> None:
    check_lora_in_diffusers(family, LTXConditionPipeline, tmp_path)
