"""HunyuanVideo image-to-video, both kinds: parity with diffusers' own pipeline, and the effect of the mask."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import HunyuanVideoImageToVideoPipeline
from parity import (
    CPU,
    PROMPT,
    check_lora_in_diffusers,
    check_refused,
    encode,
    generate,
    noise,
    picture,
    plain_sample,
)
from PIL import Image

from loraedit.families import open_family
from loraedit.families.base import Family
from loraedit.families.card import read_card
from loraedit.families.hunyuan.family import forward_with_kept_tokens
from loraedit.families.keep_channel import shown_where_kept

FRAMES, HEIGHT, WIDTH = 9, 32, 48
CHANNELS, TOKENS = "hunyuan, channels", "hunyuan, tokens"


def family_of(others: dict[str, Path], kind: str) -> Family:
    return open_family(read_card(others[kind]))


@pytest.mark.parametrize("kind", [CHANNELS, TOKENS])
@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_sampler_equals_diffusers_own_pipeline(
    others: dict[str, Path], kind: str, guidance: float, tmp_path: Path
) -> None:
    family = family_of(others, kind)
    condition = encode(family, plain_sample(FRAMES, HEIGHT, WIDTH))
    latents = generate(family, condition, 4, guidance, tmp_path)
    pixels = family.decode(latents, CPU)
    pipeline = HunyuanVideoImageToVideoPipeline.from_pretrained(others[kind], dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    first = condition.condition[None, 1:, :1]
    start = (noise(family, condition) - 0.001 * first) / 0.999  # diffusers mixes this much of frame 1 into the noise
    embedded = family.card.embeds_guidance
    theirs = pipeline(
        Image.fromarray(picture(HEIGHT, WIDTH)[0]), PROMPT, negative_prompt="", height=HEIGHT, width=WIDTH,
        num_frames=FRAMES, num_inference_steps=4, guidance_scale=guidance if embedded else 1.0,
        true_cfg_scale=1.0 if embedded else guidance, latents=start, output_type="np",
        max_sequence_length=family.card.settings.text_tokens,
    ).frames[0]  # fmt: skip
    ours = (pixels + 1) / 2
    if kind == CHANNELS:
        ours = ours[4:]  # the pipeline drops these
    assert np.abs(np.clip(ours, 0, 1) - theirs).max() < 1e-4


def test_kept_tokens_in_another_order_give_what_the_model_gives_for_frame_1(others: dict[str, Path]) -> None:
    """If only frame 1 is kept, the forward pass equals the model's own."""
    family = family_of(others, TOKENS)
    transformer = family.load_transformer(family.experts[0], CPU)
    condition = encode(family, plain_sample(FRAMES, HEIGHT, WIDTH))
    keep, visible = shown_where_kept(noise(family, condition), condition.condition[None])
    words = {
        "encoder_hidden_states": condition.text[None], "encoder_attention_mask": torch.ones(1, len(condition.text)),
        "pooled_projections": condition.text_2[None], "guidance": torch.tensor([3000.0]),
    }  # fmt: skip
    ours = forward_with_kept_tokens(transformer, visible, keep, torch.tensor([400.0]), **words)
    theirs = transformer(visible, torch.tensor([400.0]), **words, return_dict=False)[0]
    assert (ours - theirs).abs().max() < 1e-5


def test_the_lora_loads_into_diffusers_and_gives_the_same_velocity(others: dict[str, Path], tmp_path: Path) -> None:
    check_lora_in_diffusers(family_of(others, CHANNELS), HunyuanVideoImageToVideoPipeline, tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"in_channels": 16}, "Expected 9 with latent_concat"),
        ({"image_condition_type": None}, "not an image-to-video"),
        ({"patch_size": None}, "not that of a HunyuanVideo"),
    ],
)
def test_a_transformer_that_is_not_i2v_is_refused(
    others: dict[str, Path], tmp_path: Path, change: dict[str, object], words: str
) -> None:
    check_refused(others[CHANNELS], tmp_path / "model", change, words)
