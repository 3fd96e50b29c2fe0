"""HunyuanVideo-1.5 image-to-video: parity with diffusers' own pipeline, and what the mask does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import ClassifierFreeGuidance, HunyuanVideo15ImageToVideoPipeline
from parity import (
    CPU,
    PROMPT,
    check_edit,
    check_half_precision,
    check_mask_reaches_the_model,
    check_refused,
    encode,
    generate,
    noise,
    picture,
    plain_sample,
    with_card,
)
from PIL import Image
from tiny_hunyuan15 import save_tiny_hunyuan15

from loraedit.families.base import Family

FRAMES, HEIGHT, WIDTH = 9, 64, 64
TEXT_TOKENS = 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return with_card(save_tiny_hunyuan15(tmp_path_factory.mktemp("hunyuan15") / "model"), 32 * 32, TEXT_TOKENS)


@pytest.mark.parametrize(("prompt", "guidance"), [(PROMPT, 3.0), (f'{PROMPT} with "red coat" on it', 1.0)])
def test_sampler_equals_diffusers_own_pipeline(family: Family, guidance: float, prompt: str, tmp_path: Path) -> None:
    condition = encode(family, replace(plain_sample(FRAMES, HEIGHT, WIDTH), prompt=prompt))
    pixels = family.decode(generate(family, condition, 4, guidance, tmp_path), CPU)
    pipeline = HunyuanVideo15ImageToVideoPipeline.from_pretrained(
        family.card.folder, guider=ClassifierFreeGuidance(guidance_scale=guidance), dtype=torch.float32
    )
    pipeline.set_progress_bar_config(disable=True)
    pipeline.tokenizer_max_length = TEXT_TOKENS
    theirs = pipeline(
        Image.fromarray(picture(HEIGHT, WIDTH)[0]), prompt, num_frames=FRAMES, num_inference_steps=4,
        latents=noise(family, condition), output_type="np",
    ).frames[0]  # fmt: skip
    assert np.abs(np.clip((pixels + 1) / 2, 0, 1) - theirs).max() < 1e-4


def test_the_mask_inside_a_frame_reaches_the_model(family: Family) -> None:
    check_mask_reaches_the_model(family, FRAMES, HEIGHT, WIDTH)


def test_the_whole_edit_runs_with_lora_references_and_crop(folder: Path) -> None:
    check_edit(folder)


def test_a_bfloat16_transformer_gives_a_velocity_and_gradients(family: Family) -> None:
    check_half_precision(family, FRAMES, HEIGHT, WIDTH)


@pytest.mark.parametrize(
    ("change", "words"), [({"in_channels": 32}, "takes 32 channels, not 9"), ({"use_meanflow": True}, "distilled")]
)
def test_a_transformer_that_is_not_plain_i2v_is_refused(
    folder: Path, tmp_path: Path, change: dict[str, object], words: str
) -> None:
    check_refused(folder, tmp_path / "model", change, words)
