"""Makes the transformer's training data: new clips, rendered and encoded in rounds, with the last few rounds on disk.

A shard holds the clips of one round and one shape, and depends on ``(round, shape)`` alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from pretrain.clips import render, sample_scene
from pretrain.photos import photos
from pretrain.text import to_ids
from pretrain.textures import Image
from pretrain.vae import encode, to_tensor

__all__ = ["Shape", "load_shard"]

FRAMES_PER_LATENT = 2


@dataclass(frozen=True)
class Shape:
    """Describes one kind of clip: frames, height and width in pixels, and their number per round."""

    frames: int
    height: int
    width: int
    clips: int

    @property
    def name(self) -> str:
        return f"{self.frames}x{self.height}x{self.width}"

    @property
    def tokens(self) -> int:
        return ((self.frames - 1) // FRAMES_PER_LATENT + 1) * (self.height // 8) * (self.width // 8)


def kept_frames(rng: np.random.Generator, frames: int) -> list[int]:
    """Draws which whole frames a clip's condition keeps: the first; sometimes first and last; for stills also none."""
    if frames == 1:
        return [0] if rng.random() < 0.5 else []
    return [0, frames - 1] if rng.random() < 0.12 else [0]


def pack_kept(kept: list[int], frames: int, height: int, width: int) -> Tensor:
    """Returns Wan's mask channels for whole kept frames, ``[2, f, h, w]`` bool; 1 = keep."""
    line = torch.zeros(frames, dtype=torch.bool)
    line[kept] = True
    line = torch.cat([line[:1].repeat(FRAMES_PER_LATENT), line[1:]]).view(-1, FRAMES_PER_LATENT).T
    return line[..., None, None].expand(-1, -1, height, width).contiguous()


def condition_clip(clip: Image, kept: list[int]) -> Image:
    """Returns the kept frames, with mid grey elsewhere."""
    masked = np.full_like(clip, 128)
    masked[kept] = clip[kept]
    return masked


def normalise(vae: AutoencoderKLWan, latents: Tensor) -> Tensor:
    """Normalises latents to zero mean and unit variance with the VAE's own statistics."""
    mean, std = (torch.tensor(v).view(1, -1, 1, 1, 1) for v in (vae.config.latents_mean, vae.config.latents_std))
    return (latents - mean) / std


@torch.no_grad()
def make_shard(vae: AutoencoderKLWan, tokenizer: PreTrainedTokenizerFast, seed: int, shape: Shape) -> dict[str, Tensor]:
    """Renders and encodes one shard: target, condition, mask, object weight and caption ids."""
    bank = photos()
    targets, conditions, masks, objects, captions = [], [], [], [], []
    h, w = shape.height // 4, shape.width // 4
    for index in range(shape.clips):
        rng = np.random.default_rng((seed, shape.frames, shape.height, shape.width, index))
        scene = sample_scene(rng, bank)
        clip = render(scene, shape.frames, shape.height, shape.width, index)
        kept = kept_frames(rng, shape.frames)
        pixels = to_tensor([clip.frames, condition_clip(clip.frames, kept)])
        pixels[1, :, [i for i in range(shape.frames) if i not in kept]] = 0.0
        with torch.autocast("cpu", torch.bfloat16):
            latents = normalise(vae, encode(vae, pixels).mean)
        visible = torch.from_numpy(clip.visible)[None, None]
        weight = F.adaptive_avg_pool3d(torch.cat([visible[:, :, :1], visible], 2), (latents.shape[2], h, w))
        targets.append(latents[0].half())
        conditions.append(latents[1].half())
        masks.append(pack_kept(kept, shape.frames, h, w))
        objects.append(weight[0, 0].gt(0.1))
        captions.append("" if rng.random() < 0.15 else scene.caption)
    return {
        "target": torch.stack(targets), "condition": torch.stack(conditions), "mask": torch.stack(masks),
        "object": torch.stack(objects), "ids": to_ids(tokenizer, captions),
    }  # fmt: skip


def load_shard(
    folder: Path, vae: AutoencoderKLWan, tokenizer: PreTrainedTokenizerFast, seed: int, shape: Shape
) -> dict[str, Tensor]:
    """Reads a shard from disk, or makes it and writes it there."""
    path = folder / f"{seed:05d}-{shape.name}-{shape.clips}.safetensors"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp")
        save_file(make_shard(vae, tokenizer, seed, shape), temporary)
        temporary.rename(path)
    return load_file(path)
