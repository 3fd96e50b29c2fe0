"""What the parity tests of all families ask: the same picture, condition and noise for us and for diffusers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scenes import make_scene
from tiny_cards import write_card
from tiny_hunyuan import save_tiny_hunyuan
from tiny_hunyuan15 import save_tiny_hunyuan15
from tiny_ltx import save_tiny_ltx
from tiny_ltx2 import save_tiny_ltx2

import loraedit
from loraedit.diffusion.samples import Sample, exclude_frames, inference_condition, motion_sample
from loraedit.errors import ModelError
from loraedit.families.base import Encoded, Family, batch
from loraedit.families.card import read_card
from loraedit.lora.adapter import attach, attach_lora, lora_parameters, save_lora
from loraedit.sampling.sampler import initial_noise, sample
from loraedit.settings import SamplingSettings
from loraedit.types import Frames, Pixels
from loraedit.video.scaling import to_float

CPU = torch.device("cpu")
PROMPT = "a red coat"


@dataclass(frozen=True)
class Kind:
    """A family beside Wan, in small.

    Attributes:
        save: writes a random checkpoint in the published layout.
        area_px: of its card.
        text_tokens: of its card.
        clip: frames, height and width of a clip with a mask inside of it.
    """

    save: Callable[[Path], Path]
    area_px: int
    text_tokens: int
    clip: tuple[int, int, int]


KINDS = {
    "hunyuan, channels": Kind(lambda folder: save_tiny_hunyuan(folder, "33ch"), 1024, 20, (9, 32, 48)),
    "hunyuan, tokens": Kind(lambda folder: save_tiny_hunyuan(folder, "16ch"), 1024, 20, (9, 32, 48)),
    "hunyuan 1.5": Kind(save_tiny_hunyuan15, 1024, 12, (9, 64, 64)),
    "ltx": Kind(save_tiny_ltx, 64 * 96, 8, (17, 128, 96)),
    "ltx 2": Kind(save_tiny_ltx2, 64 * 96, 16, (17, 128, 96)),
}


def save_all(place: Path) -> dict[str, Path]:
    """Writes a checkpoint of every kind, each with a card; returns the folders by kind."""
    return {name: save_with_card(kind, place / name) for name, kind in KINDS.items()}


def save_with_card(kind: Kind, folder: Path) -> Path:
    """Writes a checkpoint with a card that trains and samples in two steps."""
    return write_card(kind.save(folder), kind.area_px, kind.text_tokens, steps=2, sampling_steps=2)


def check_refused(folder: Path, copy: Path, change: dict[str, object], words: str) -> None:
    """A checkpoint whose transformer has another configuration is no model of ours."""
    shutil.copytree(folder, copy)
    file = copy / "transformer/config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(ModelError, match=words):
        read_card(copy)


def picture(height: int, width: int) -> Frames:
    """A smooth random picture, ``[1, H, W, 3]``."""
    low = np.random.default_rng(1).integers(0, 256, (4, 6, 3), np.uint8)
    return np.asarray(Image.fromarray(low).resize((width, height), Image.Resampling.BICUBIC))[None]


def moving(frames: int, height: int, width: int) -> Pixels:
    """The picture, rolling to the right."""
    return np.concatenate([np.roll(to_float(picture(height, width)), 3 * index, 2) for index in range(frames)])


def plain_sample(frames: int, height: int, width: int) -> Sample:
    """Plain I2V: the first frame kept, all else generated."""
    source = np.repeat(to_float(picture(height, width)), frames, 0)
    return inference_condition(source, source[:1], np.ones((frames, height, width), bool), PROMPT)


def masked_sample(frames: int, height: int, width: int) -> Sample:
    """The method's motion sample: outside a box, all frames are kept."""
    mask = np.zeros((frames, height, width), bool)
    mask[:, height // 2 :, width // 2 :] = True
    return motion_sample(moving(frames, height, width), exclude_frames(mask), PROMPT)


def encode(family: Family, given: Sample) -> Encoded:
    return family.encode([given], CPU, lambda *_: None)[0]


def generate(family: Family, condition: Encoded, steps: int, guidance: float, folder: Path) -> torch.Tensor:
    """Latents by our sampler, seed 5."""
    settings = SamplingSettings(sampling_steps=steps, guidance=guidance, seed=5)
    negative = family.embed_prompt("", CPU)
    return sample(family, condition, negative, settings, {}, CPU, folder / "steps", lambda *_: None)


def noise(family: Family, condition: Encoded) -> torch.Tensor:
    """The noise that our sampler starts from, ``[1, c, f, h, w]``."""
    return initial_noise((family.card.latent_channels, *condition.condition.shape[1:]), 5)[None]


def check_mask_reaches_the_model(family: Family, frames: int, height: int, width: int) -> None:
    """Kept cells are told and shown as such in every frame; what is edited is hidden; both change the velocity."""
    given = masked_sample(frames, height, width)
    plain, masked = encode(family, plain_sample(frames, height, width)), encode(family, given)
    keep = masked.condition[0]
    assert keep[0].eq(1).all()  # frame 1 is given as a whole
    side, patch = family.card.multiple_px, family.card.multiple_px // family.card.spatial
    edited = np.add.reduceat(np.add.reduceat(given.edit_mask[-1].astype(int), np.arange(0, height, side), 0),
                             np.arange(0, width, side), 1).repeat(patch, 0).repeat(patch, 1) > 0  # fmt: skip
    assert edited.any() and not edited.all()
    assert all(np.array_equal(plane == 0, edited) for plane in keep[1:].numpy())
    assert plain.condition[0, 1:].eq(0).all()

    other = given.condition.copy()
    other[:, : height // 4, : width // 4] *= -1  # another picture outside the mask
    shown = encode(family, replace(given, condition=other))
    assert not torch.equal(shown.condition[1:, 1:][:, keep[1:] == 1], masked.condition[1:, 1:][:, keep[1:] == 1])

    transformer = family.load_transformer(family.experts[0], CPU)
    start, time = noise(family, masked), torch.tensor([500.0])
    with torch.inference_mode():
        velocities = [family.velocity(transformer, start, time, batch([each]))[0] for each in (plain, masked, shown)]
    hidden = (keep == 0).expand_as(velocities[0])
    assert all((one - two)[hidden].abs().max() > 1e-4 for one, two in pairwise(velocities))


def check_half_precision(family: Family, frames: int, height: int, width: int) -> None:
    """In bfloat16 with checkpointing: nearly the same velocity, and a gradient in every float32 LoRA matrix."""
    condition = encode(family, masked_sample(frames, height, width))
    start, time = noise(family, condition), torch.tensor([500.0])
    transformer = family.load_transformer(family.experts[0], CPU)
    full = family.velocity(transformer, start, time, batch([condition]))
    half = transformer.to(torch.bfloat16)
    half.enable_gradient_checkpointing()
    attach(half, family.lora_targets("all"), rank=2, seed=0)
    velocity = family.velocity(half.train(), start, time, batch([condition]))
    assert velocity.dtype == torch.float32
    assert (velocity - full).abs().max() < 0.1
    velocity.sum().backward()
    gradients = {name: p.grad for name, p in lora_parameters(half) if name.endswith("lora_B")}
    missing = {name for name, grad in gradients.items() if grad is None or grad.dtype != torch.float32}
    assert gradients and not missing


def check_edit(family: Family, run: Path) -> None:
    """The whole edit of a long clip, with LoRA, a reference and a window: the outside stays, the inside changes."""
    step = family.card.frame_step
    scene = make_scene(frames=2 * step - 1, height=48, width=96)
    look = scene.source[-1].copy()
    look[scene.mask[-1]] = 255
    result = loraedit.edit(
        scene.source, scene.edited_first, scene.mask, model=str(family.card.folder), references={2 * step - 2: look},
        crop="fixed", prompt="a red coat", blend_latents=True, batch_size=2, segment_frames=step + 1, run=run,
        steps=2, reference_steps=1, sampling_steps=2, rank=2,
    )  # fmt: skip
    assert result.outside_exact
    assert (result.clip.frames[scene.mask] != scene.source[scene.mask]).any()
    assert len(result.losses) == 3 * len(family.experts)
    assert len(list((run / "cache").glob("latents-*.safetensors"))) == 2  # segments


def check_lora_in_diffusers(family: Family, pipeline_kind: Any, folder: Path) -> None:
    """Our LoRA file loads through diffusers' own loader, and the model then says the same as ours."""
    condition = batch([encode(family, masked_sample(9, 2 * family.card.multiple_px, 2 * family.card.multiple_px))])
    ours = family.load_transformer(family.experts[0], CPU)
    attach(ours, family.lora_targets("all"), rank=2, seed=0)
    for name, parameter in lora_parameters(ours):
        if name.endswith("lora_B"):
            torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(1))
    save_lora(folder / "lora.safetensors", family, ours, {})
    again = family.load_transformer(family.experts[0], CPU)
    attach_lora(folder / "lora.safetensors", family, again)
    theirs = pipeline_kind.from_pretrained(family.card.folder, dtype=torch.float32)
    theirs.load_lora_weights(folder / "lora.safetensors")
    bare = family.load_transformer(family.experts[0], CPU)
    start, time = torch.randn(condition.condition[:, 1:].shape), torch.tensor([500.0])
    with torch.inference_mode():
        velocities = [
            family.velocity(model, start, time, condition) for model in (ours, again, theirs.transformer, bare)
        ]
    assert torch.equal(velocities[0], velocities[1])
    assert (velocities[0] - velocities[2]).abs().max() < 1e-5
    assert (velocities[0] - velocities[3]).abs().max() > 1e-3
