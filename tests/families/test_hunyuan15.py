"""HunyuanVideo-1.5 image-to-video: parity with diffusers' own pipeline, and the effect of the mask."""

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
    check_refused,
    encode,
    generate,
    noise,
    picture,
    plain_sample,
)
from PIL import Image

from loraedit.families.base import Family

FRAMES, HEIGHT, WIDTH = 9, 64, 64


@pytest.fixture(scope="module")
def folder(others: dict[str, Path]) -> Path:
    return others["hunyuan 1.5"]


@pytest.mark.parametrize(("prompt", "guidance"), [(PROMPT, 3.0), (f'{PROMPT} with "red coat" on it', 1.0)])
def test_sampler_equals_diffusers_own_pipeline(family: Family, guidance: float, prompt: str, tmp_path: Path) -> None:
    condition = encode(family, replace(plain_sample(FRAMES, HEIGHT, WIDTH), prompt=prompt))
    pixels = family.decode(generate(family, condition, 4, guidance, tmp_path), CPU)
    pipeline = HunyuanVideo15ImageToVideoPipeline.from_pretrained(
        family.card.folder, guider=ClassifierFreeGuidance(guidance_scale=guidance), dtype=torch.float32
    )
    pipeline.set_progress_bar_config(disable=True)
    pipeline.tokenizer_max_length = family.card.settings.text_tokens
    theirs = pipeline(
        Image.fromarray(picture(HEIGHT, WIDTH)[0]), prompt, num_frames=FRAMES, num_inference_steps=4,
        latents=noise(family, condition), output_type="np",
    ).frames[0]  # fmt: skip
    assert np.abs(np.clip((pixels + 1) / 2, 0, 1) - theirs).max() < 1e-4


@pytest.mark.parametrize(
    ("change", "words"), [({"in_channels": 32}, "takes 32 channels, not 9"), ({"use_meanflow": True}, "distilled")]
)
def test_a_transformer_that_is_not_plain_i2v_is_refused(
    folder: Path, tmp_path: Path, change: dict[str, object], words: str
) -> None:
    check_refused(folder, tmp_path / "model", change, words)
