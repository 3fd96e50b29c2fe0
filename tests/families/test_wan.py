"""Parity with diffusers' own pipeline, for a small copy of every published Wan model and for nano."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from tiny import distinct_models
from torch.nn import functional

from loraedit.diffusion.samples import inference_condition
from loraedit.families import open_family
from loraedit.families.base import Encoded, Family, batch
from loraedit.families.card import NANO, read_card
from loraedit.families.encoding import embed_prompt, encode
from loraedit.lora.adapter import attach, lora_parameters
from loraedit.sampling.sampler import initial_noise, sample
from loraedit.sampling.schedule import experts_trained
from loraedit.settings import PAPER, SamplingSettings, make_settings
from loraedit.types import Frames
from loraedit.video.scaling import to_float, to_uint8

NO_IMAGES = {"image_encoder": None, "image_processor": None}
CPU = torch.device("cpu")
FRAMES, HEIGHT, WIDTH = 5, 32, 64
PUBLISHED = [model.id for model in distinct_models()]
SAME_CONDITION = [name for name in PUBLISHED if not any(part in name for part in ("FLF2V", "TI2V", "SkyReels"))]
"""These make their condition as the model "plain" does."""

NAMES = ["plain", "nano-like", "nano", *PUBLISHED]


@pytest.fixture(scope="session")
def folders(checkpoints: dict[str, Path], published: dict[str, Path]) -> dict[str, Path]:
    return {**checkpoints, **published, "nano": NANO}


def picture() -> Frames:
    low = np.random.default_rng(1).integers(0, 256, (4, 6, 3), np.uint8)
    return np.asarray(Image.fromarray(low).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC))[None]


def plain_condition(family: Family) -> Encoded:
    """Returns the condition of plain I2V: the first frame is kept, and the last one for a first-last-frame model."""
    source = np.repeat(to_float(picture()), FRAMES, 0)
    everything = np.ones((FRAMES, HEIGHT, WIDTH), bool)
    last = {FRAMES - 1: to_float(negative_picture())} if family.card.image_frames == 2 else {}
    condition = inference_condition(source, source[:1], everything, "a red coat", fixed_frames=last)
    return encode(family, [condition], CPU)[0]


def negative_picture() -> Frames:
    return 255 - picture()


def own_pipeline(family: Family) -> Any:
    """Loads diffusers' own pipeline from the same checkpoint; its image encoder sees the frame as in Wan's own code.

    The pipeline would crop the frame to a square for the image encoder. Wan's code squashes it, and so does loraedit.
    """
    pipeline = getattr(diffusers, family.card.pipeline).from_pretrained(
        family.card.folder, dtype=torch.float32, **({} if family.card.image_frames else NO_IMAGES)
    )
    pipeline.set_progress_bar_config(disable=True)
    if family.card.image_frames:
        pipeline.encode_image = partial(encode_squashed, pipeline)
    return pipeline


def encode_squashed(pipeline: Any, images: Image.Image | list[Image.Image], _device: torch.device) -> torch.Tensor:
    """Encodes pictures as `CLIPModel.visual` of Wan's own code prepares them."""
    given, processor = images if isinstance(images, list) else [images], pipeline.image_processor
    side = pipeline.image_encoder.config.image_size
    pixels = torch.cat([torch.from_numpy(to_float(np.asarray(image)[None])).movedim(3, 1) for image in given])
    square = functional.interpolate(pixels, size=(side, side), mode="bicubic", align_corners=False)
    mean, deviation = (torch.tensor(values)[:, None, None] for values in (processor.image_mean, processor.image_std))
    seen = (square / 2 + 0.5 - mean) / deviation
    hidden: torch.Tensor = pipeline.image_encoder(seen, output_hidden_states=True).hidden_states[-2]
    return hidden


@pytest.mark.parametrize("name", [name for name in NAMES if name not in SAME_CONDITION])
def test_packed_condition_equals_diffusers_own_to_the_bit(folders: dict[str, Path], name: str) -> None:
    family = open_family(read_card(folders[name]))
    ours = plain_condition(family).condition
    pipeline, channels = own_pipeline(family), family.card.latent_channels
    image, last = (
        pipeline.video_processor.preprocess(Image.fromarray(pixels[0]), height=HEIGHT, width=WIDTH)
        for pixels in (picture(), negative_picture())
    )
    given = {"last_image": last} if family.card.image_frames == 2 else {}
    with torch.inference_mode():
        _, *theirs = pipeline.prepare_latents(image, 1, channels, HEIGHT, WIDTH, FRAMES, torch.float32, CPU, **given)
    if family.card.mask == "channels":
        assert torch.equal(ours, theirs[0][0])
    else:
        latents, generated = theirs
        assert torch.equal(ours[:1], 1 - generated[0])
        torch.testing.assert_close(ours[1:, 0], latents[0, :, 0], atol=1e-5, rtol=0)  # they encode one frame alone


def test_the_image_encoder_sees_both_ends_of_a_wide_frame(folders: dict[str, Path]) -> None:
    family = open_family(read_card(folders["wan21"]))
    picture = to_float(negative_picture())
    other = picture.copy()
    other[:, :, : (WIDTH - HEIGHT) // 2 - 8] *= -1  # a crop to a square would leave these columns out
    kept = np.zeros((1, HEIGHT, WIDTH), bool)
    seen = encode(family, [inference_condition(each, each, kept, "") for each in (picture, other)], CPU)
    images = [encoded.image for encoded in seen]
    assert images[0] is not None and images[1] is not None
    assert (images[0] - images[1]).abs().max() > 1e-3


@pytest.mark.parametrize(("name", "guidance"), [("plain", 1.0), *((name, 3.0) for name in NAMES)])
def test_sampler_equals_diffusers_own_pipeline(
    folders: dict[str, Path], name: str, guidance: float, tmp_path: Path
) -> None:
    family = open_family(read_card(folders[name]))
    condition = plain_condition(family)
    steps = 12 if len(family.experts) == 2 else 4  # enough steps to cross the boundary between the experts
    negative = embed_prompt(family, "", CPU)
    settings = SamplingSettings(sampling_steps=steps, guidance=guidance, seed=5)
    latents = sample(family, condition, negative, settings, {}, CPU, tmp_path / "steps", lambda *_: None)
    pixels = family.decode(latents, CPU)
    last = {"last_image": Image.fromarray(negative_picture()[0])} if family.card.image_frames == 2 else {}
    theirs = own_pipeline(family)(
        Image.fromarray(picture()[0]), "a red coat", "", HEIGHT, WIDTH, FRAMES, steps, guidance,
        latents=initial_noise(tuple(latents.shape), 5)[None], output_type="np",
        max_sequence_length=family.card.settings.text_tokens, **last,
    ).frames[0]  # fmt: skip
    assert np.abs((pixels + 1) / 2 - theirs).max() < 1e-4


def test_the_experts_that_are_trained_are_those_that_sampling_asks(checkpoints: dict[str, Path]) -> None:
    family = open_family(read_card(checkpoints["wan22"]))

    def trained(**settings: float) -> list[str]:
        return [each.name for each in experts_trained(family, make_settings(settings).resolved(PAPER))]

    assert trained() == ["transformer", "transformer_2"]
    assert trained(min_noise_level=0.95) == ["transformer"]
    assert trained(strength=0.8) == ["transformer", "transformer_2"], "what is not shown starts from pure noise"
    assert trained(sampling_steps=1) == ["transformer"]


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
    encoded = encode(family, [kept], CPU)[0]
    latents = encoded.condition[family.card.temporal :]
    error = to_uint8(family.decode(latents, CPU)).astype(float) - np.repeat(picture(), FRAMES, 0)
    assert 10 * np.log10(255**2 / np.square(error).mean()) > 24
