"""LTX-Video: parity with diffusers' own condition pipeline, and what the mask does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import LTXConditionPipeline
from parity import (
    CPU,
    PROMPT,
    check_edit,
    check_half_precision,
    check_lora_in_diffusers,
    check_mask_reaches_the_model,
    encode,
    generate,
    picture,
    plain_sample,
    with_card,
)
from PIL import Image
from tiny_ltx import save_tiny_ltx

from loraedit.families.base import Family

FRAMES, HEIGHT, WIDTH = 17, 64, 96


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return with_card(save_tiny_ltx(tmp_path_factory.mktemp("ltx") / "model"), 64 * 96, 8)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # in the pipeline
@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_sampler_equals_diffusers_own_pipeline(family: Family, guidance: float, tmp_path: Path) -> None:
    latents = generate(family, encode(family, plain_sample(FRAMES, HEIGHT, WIDTH)), 4, guidance, tmp_path)
    pixels = family.decode(latents, CPU)
    pipeline = LTXConditionPipeline.from_pretrained(family.card.folder, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(
        image=Image.fromarray(picture(HEIGHT, WIDTH)[0]), prompt=PROMPT, negative_prompt="", height=HEIGHT,
        width=WIDTH, num_frames=FRAMES, num_inference_steps=4, guidance_scale=guidance, image_cond_noise_scale=0.0,
        generator=torch.Generator().manual_seed(5), decode_timestep=0.05, decode_noise_scale=0.0, output_type="np",
        max_sequence_length=8,
    ).frames[0]  # fmt: skip
    assert np.abs(np.clip((pixels + 1) / 2, 0, 1) - theirs).max() < 1e-4


def test_the_mask_inside_a_frame_reaches_the_model(family: Family) -> None:
    check_mask_reaches_the_model(family, FRAMES, 2 * HEIGHT, WIDTH)


def test_the_whole_edit_runs_with_lora_references_and_crop(folder: Path) -> None:
    check_edit(folder)


def test_a_bfloat16_transformer_gives_a_velocity_and_gradients(family: Family) -> None:
    check_half_precision(family, FRAMES, HEIGHT, WIDTH)


def test_the_lora_loads_into_diffusers_and_gives_the_same_velocity(family: Family, tmp_path: Path) -> None:
    check_lora_in_diffusers(family, LTXConditionPipeline, tmp_path)
