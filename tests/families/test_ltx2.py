"""LTX-2: parity with diffusers' own condition pipeline, with the picture isolated from the sound."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from diffusers import LTX2ConditionPipeline
from diffusers.pipelines.ltx2 import pipeline_ltx2_condition
from diffusers.pipelines.ltx2.pipeline_ltx2_condition import LTX2VideoCondition
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
from tiny_ltx2 import SOUND

from loraedit.families.base import Family

FRAMES, HEIGHT, WIDTH = 17, 64, 96


@pytest.fixture(scope="module")
def folder(others: dict[str, Path]) -> Path:
    return others["ltx 2"]


@pytest.mark.parametrize(("guidance", "rate"), [(1.0, 24.0), (3.0, 12.0)])
def test_sampler_equals_diffusers_own_pipeline(
    family: Family, guidance: float, rate: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pipeline also generates sound from other noise; with the two isolated, the pictures are equal."""
    condition = encode(family, replace(plain_sample(FRAMES, HEIGHT, WIDTH), frame_rate=rate))
    latents = generate(family, condition, 4, guidance, tmp_path)
    start = LTX2ConditionPipeline._pack_latents(noise(family, condition))

    def draw(shape: tuple[int, ...], **_: object) -> torch.Tensor:
        """Returns loraedit's noise for the picture, and other noise for the sound."""
        return start.clone() if tuple(shape) == tuple(start.shape) else torch.ones(shape)

    monkeypatch.setattr(pipeline_ltx2_condition, "randn_tensor", draw)
    pipeline = LTX2ConditionPipeline.from_pretrained(
        family.card.folder, audio_vae=None, vocoder=None, dtype=torch.float32
    )
    pipeline.set_progress_bar_config(disable=True)
    joint = pipeline.transformer.forward
    pipeline.transformer.forward = lambda **given: joint(**{**given, "isolate_modalities": True})
    pipeline.audio_vae = SimpleNamespace(latents_mean=torch.zeros(SOUND), latents_std=torch.ones(SOUND))
    pipeline.audio_latent_channels = SOUND // 2
    pipeline.audio_mel_bins = 2 * pipeline.audio_vae_mel_compression_ratio
    theirs = pipeline(
        LTX2VideoCondition(Image.fromarray(picture(HEIGHT, WIDTH)[0]), crf=0), PROMPT, "", HEIGHT, WIDTH, FRAMES,
        frame_rate=rate, num_inference_steps=4, guidance_scale=guidance, stg_scale=0.0, modality_scale=1.0,
        guidance_rescale=0.0, audio_guidance_scale=guidance, audio_modality_scale=1.0, output_type="latent",
        max_sequence_length=family.card.settings.text_tokens,
    ).frames  # fmt: skip
    with family._vae(CPU) as vae:
        ours = family._normalise(vae, latents[None], back=True)
    assert (ours - theirs).abs().max() < 1e-4


def test_the_lora_loads_into_diffusers_and_gives_the_same_velocity(family: Family, tmp_path: Path) -> None:
    kind = partial(LTX2ConditionPipeline.from_pretrained, audio_vae=None, vocoder=None)
    check_lora_in_diffusers(family, SimpleNamespace(from_pretrained=kind), tmp_path)
