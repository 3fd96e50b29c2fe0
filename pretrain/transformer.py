"""Trains transformer and text encoder: plain image-to-video, as Wan2.1 was pretrained.

The first frame is kept (in some clips the last too) and the rest is generated, with a caption. The model never sees a
mask inside a frame; reading those is what the LoRA of an edit learns.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from torch import Tensor, nn
from transformers import AutoTokenizer, PreTrainedTokenizerFast, UMT5EncoderModel

from pretrain.checkpoints import load_state
from pretrain.clips import Source
from pretrain.config import ClipKind, Preset, TransformerPlan
from pretrain.latents import Encoder, Pool, make_shard, pack_kept
from pretrain.loop import Course, run
from pretrain.optim import Ema, build_optimizers
from pretrain.render.captions import captions
from pretrain.render.dice import Dice
from pretrain.render.scene import Mix, Studio, draw_scene
from pretrain.schedule import Budget, linear_fall
from pretrain.text import build_text_encoder, build_tokenizer, embed

__all__ = ["Nano", "averaged", "build", "train_transformer"]

HELD_OUT_SHARD, CAPTION_KEY = 99_999, 31
CAPTIONS = 2000


class Nano(nn.Module):
    """What is trained together: the transformer and the text encoder."""

    def __init__(self, preset: Preset, vocabulary: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        sizes = preset.transformer
        self.transformer = WanTransformer3DModel(**sizes.settings(preset.vae.channels))
        self.text_encoder: UMT5EncoderModel = build_text_encoder(vocabulary, sizes.text_dim, sizes.text_layers)
        for block in self.transformer.blocks:
            for layer in (block.attn1.to_out[0], block.attn2.to_out[0], block.ffn.net[2]):
                nn.init.zeros_(layer.weight)
        nn.init.zeros_(self.transformer.proj_out.weight)

    def forward(self, noisy: Tensor, condition: Tensor, time: Tensor, ids: Tensor) -> Tensor:
        """Returns the velocity ``[B, C, f, h, w]`` of noisy latents at time in [0, 1] (1 is pure noise)."""
        text = embed(self.text_encoder, ids)
        inputs = torch.cat([noisy, condition], 1)
        output: Tensor = self.transformer(inputs, time * 1000, text, return_dict=False)[0]
        return output


def explicit_attention(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, scale: float | None = None, **_: Any
) -> Tensor:
    """Computes softmax attention written out: in bfloat16 on a CPU nearly three times as fast as the fused kernel."""
    scores = (query * (query.shape[-1] ** -0.5 if scale is None else scale)) @ key.mT
    return (scores if attn_mask is None else scores + attn_mask).softmax(-1).to(value.dtype) @ value


@contextmanager
def training_precision(device: torch.device) -> Iterator[None]:
    """Computes in bfloat16, with the attention that is fastest on the device."""
    with torch.autocast(device.type, torch.bfloat16):
        if device.type != "cpu":
            yield
            return
        with mock.patch.object(F, "scaled_dot_product_attention", explicit_attention):
            yield


def velocity_loss(model: Nano, batch: dict[str, Tensor], plan: TransformerPlan, generator: torch.Generator) -> Tensor:
    """Returns the flow-matching loss ``|| v - (x0 - x1) ||^2``, x1 data and x0 noise, moving objects weighted up."""
    data = batch["target"].float()
    device = data.device
    noise = torch.randn(data.shape, generator=generator, device=generator.device).to(device)
    uniform = torch.rand(len(data), generator=generator, device=generator.device).to(device)
    time = plan.shift * uniform / (1 + (plan.shift - 1) * uniform)
    t = time.view(-1, 1, 1, 1, 1)
    keep = pack_kept(batch["kept"], *data.shape[-2:]).float()
    condition = torch.cat([keep, batch["condition"].float()], 1)
    with training_precision(device):
        velocity = model((1 - t) * data + t * noise, condition, time, batch["ids"]).float()
    weight = 1 + (plan.object_weight - 1) * batch["object"][:, None].float()
    return ((velocity - (noise - data)).square() * weight).mean() / weight.mean()


@torch.no_grad()
def held_out_loss(model: Nano, shard: dict[str, Tensor], plan: TransformerPlan) -> float:
    """Returns the loss on unseen clips with fixed noise and noise levels, which are the same on every machine."""
    losses = []
    for start in range(0, len(shard["ids"]), 8):
        batch = {key: value[start : start + 8] for key, value in shard.items()}
        losses.append(float(velocity_loss(model, batch, plan, torch.Generator().manual_seed(start))))
    return round(float(np.mean(losses)), 4)


@cache
def caption_tokenizer() -> PreTrainedTokenizerFast:
    """Returns a tokenizer that knows the words of the captions."""
    photos, said = torch.zeros((1, 3, 32, 32), dtype=torch.uint8), []
    for key in range(4):
        dice = Dice(torch.device("cpu"), CAPTION_KEY, key)
        scene = draw_scene(Studio(dice, photos, Mix(), 1, 32, 32), CAPTIONS // 4)
        said += captions(scene)
    return build_tokenizer(said)


def build(preset: Preset, start: Path | None) -> tuple[Nano, PreTrainedTokenizerFast]:
    """Returns model and tokenizer: fresh ones, or those of a checkpoint in diffusers layout."""
    if start is None:
        tokenizer = caption_tokenizer()
        return Nano(preset, len(tokenizer)), tokenizer
    tokenizer = AutoTokenizer.from_pretrained(start / "tokenizer")
    model = Nano(preset, len(tokenizer))
    parts = (
        (model.transformer, WanTransformer3DModel.from_pretrained(start / "transformer", dtype=torch.float32)),
        (model.text_encoder, UMT5EncoderModel.from_pretrained(start / "text_encoder", dtype=torch.float32)),
    )
    for mine, stored in parts:
        mine.load_state_dict(stored.state_dict())
    return model, tokenizer


def averaged(preset: Preset, work: Path, start: Path | None) -> tuple[Nano, PreTrainedTokenizerFast]:
    """Returns the averaged weights of a training so far; those of ``start`` if there was none."""
    model, tokenizer = build(preset, start)
    ema = Ema(model, 0.0)
    load_state(work / "transformer.safetensors", model, ema, [])
    model.load_state_dict(ema.weights)
    return model, tokenizer


def held_out_shards(encoder: Encoder, preset: Preset) -> dict[str, dict[str, Tensor]]:
    """Returns unseen clips of the first small and the largest kind; they are drawn on the CPU."""
    cpu = torch.device("cpu")
    here = Encoder(encoder.source.on(cpu), encoder.vae.to(cpu), encoder.tokenizer, encoder.plan)
    kinds: dict[str, tuple[ClipKind, int]] = {
        "held_out": (encoder.plan.small[0], preset.held_out),
        "held_out_large": (encoder.plan.large[1 % len(encoder.plan.large)], max(2, preset.held_out * 3 // 8)),
    }
    shards = {name: make_shard(here, HELD_OUT_SHARD, kind, count) for name, (kind, count) in kinds.items()}
    device = encoder.source.device
    encoder.vae.to(device)
    return {name: {key: value.to(device) for key, value in shard.items()} for name, shard in shards.items()}


def train_transformer(
    preset: Preset, source: Source, work: Path, budget: Budget, start: Path | None, compiled: bool = False
) -> None:
    """Trains on the latents of ``work/vae``, or without one of the VAE of ``start``."""
    plan, device = preset.transformer_plan, source.device
    folder = work / "vae" if (work / "vae").is_dir() or start is None else start / "vae"
    vae = AutoencoderKLWan.from_pretrained(folder, dtype=torch.float32).to(device).eval().requires_grad_(False)
    model, tokenizer = build(preset, start)
    model.to(device)
    if compiled:
        for block in model.transformer.blocks:
            block.compile()
    encoder = Encoder(source, vae, tokenizer, plan)
    pool = Pool(encoder, work / "shards" if device.type == "cpu" else None, budget)
    unseen = held_out_shards(encoder, preset)

    def loss(step: int, share: float) -> Tensor:
        batch = pool.batch(step, share)
        return velocity_loss(model, batch, plan, torch.Generator(device).manual_seed(step))

    def judge() -> dict[str, float]:
        return {name: held_out_loss(model, shard, plan) for name, shard in unseen.items()}

    def rate(share: float, step: int) -> float:
        return plan.peak * linear_fall(share, step, plan.warmup)

    optimizers, every = (
        build_optimizers(model, plan.peak, plan.weight_decay),
        max(1, budget.steps // preset.evaluations),
    )
    state, log = work / "transformer.safetensors", work / "transformer.jsonl"
    run(
        Course("transformer", model, Ema(model, plan.average), optimizers, budget, rate, loss, judge, state, log, every)
    )
