"""Trains the VAE, phase by phase; each phase has its own schedule and starts from the last one's averaged weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLWan
from torch import Tensor

from pretrain.clips import Source, VaeBatches, vae_clips
from pretrain.config import Preset, VaePhase
from pretrain.loop import Course, run
from pretrain.optim import Ema, build_optimizers
from pretrain.schedule import Budget, cosine_fall
from pretrain.vae_model import build_vae, decode, encode, psnr

__all__ = ["held_out_psnr", "measure_statistics", "train_vae"]

HELD_OUT_KEY, STATISTICS_KEY, TRAINING_KEY = 999, 777, 1
WARMUP = 100


def reconstruction(output: Tensor, pixels: Tensor) -> Tensor:
    """Returns the loss of decoded pixels: squared error, absolute error, and absolute error of gradients."""
    error = output - pixels
    edges = (error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()) / 2
    return 4 * error.square().mean() + 0.2 * error.abs().mean() + 0.2 * edges


def phase_loss(
    vae: AutoencoderKLWan, before: AutoencoderKLWan | None, pixels: Tensor, phase: VaePhase, generator: torch.Generator
) -> Tensor:
    """Returns the loss of one batch in a phase.

    Args:
        before: the VAE as it was, to whose latents ``phase.hold`` ties the new ones.
    """
    with torch.autocast(pixels.device.type, torch.bfloat16):
        if phase.decoder_only:
            with torch.no_grad():
                latents = encode(vae, pixels).mean
            return reconstruction(decode(vae, latents).float(), pixels)
        posterior = encode(vae, pixels)
        noise = torch.randn(posterior.mean.shape, generator=generator, device=pixels.device)
        output = decode(vae, posterior.mean + posterior.std * noise).float()
        loss = reconstruction(output, pixels) + phase.kl * posterior.kl().mean()
        if before is None or not phase.hold:
            return loss
        with torch.no_grad():
            known = encode(before, pixels).mean
    spread = known.std((0, 2, 3, 4), keepdim=True)
    return loss + phase.hold * ((posterior.mean - known) / spread).square().mean()


def held_out_clips(source: Source, preset: Preset) -> tuple[Tensor, Tensor]:
    """Returns unseen clips ``[B, 3, F, H, W]`` in [-1, 1] and where their first objects are visible ``[B, F, H, W]``.

    They are drawn on the CPU, so that they are the same on every machine.
    """
    count, side = max(1, preset.held_out // 4), preset.vae_plan.side * 3 // 2
    clips, _ = source.on(torch.device("cpu")).clips((HELD_OUT_KEY,), count, preset.vae_plan.frames, side, side)
    return clips.pixels.to(source.device), clips.visible.to(source.device)


@torch.no_grad()
def held_out_psnr(vae: AutoencoderKLWan, pixels: Tensor, visible: Tensor) -> dict[str, float]:
    """Returns the mean dB over clips: of the whole frame, and of the first object alone."""
    full, boxed = [], []
    for seen, object_ in zip(pixels.split(4), visible.split(4), strict=True):
        errors = (decode(vae, encode(vae, seen).mean).clamp(-1, 1) - seen).square().mean(1)
        full += [psnr(error.mean()) for error in errors]
        inside = [error[there > 0.5] for error, there in zip(errors, object_, strict=True)]
        boxed += [psnr(part.mean()) for part in inside if len(part)]
    return {"psnr": round(float(np.mean(full)), 2), "psnr_object": round(float(np.mean(boxed or [0])), 2)}


@torch.no_grad()
def measure_statistics(vae: AutoencoderKLWan, source: Source, preset: Preset) -> tuple[list[float], list[float]]:
    """Returns mean and standard deviation of every latent channel over clips of the training kind."""
    plan = preset.vae_plan
    clips = vae_clips(source, (STATISTICS_KEY,), plan, cropped=False, count=preset.held_out * 3 // 2)
    latents = [encode(vae, part).mean for part in clips.split(8)]
    flat = torch.cat(latents).transpose(0, 1).flatten(1)
    return flat.mean(1).tolist(), flat.std(1).tolist()


def train_vae(preset: Preset, source: Source, work: Path, budget: Budget, start: Path | None) -> None:
    """Trains all phases and writes the averaged VAE with its latent statistics into ``work/vae``.

    Args:
        start: a checkpoint whose VAE is trained on, in the last phase that holds the latents; so its transformer
            keeps its meaning, and its statistics stay.
    """
    phases = preset.vae_plan.phases
    vae = build_vae(preset.vae).to(source.device)
    if start is not None:
        vae.load_state_dict(AutoencoderKLWan.from_pretrained(start / "vae", dtype=torch.float32).state_dict())
        phases = tuple(replace(phase, share=1.0) for phase in phases if phase.hold)[-1:]
        if not phases:
            raise SystemExit(f"{preset.name} has no phase that holds the latents of a VAE. Train it without --start.")
    for index, phase in enumerate(phases):
        train_phase(vae, preset, source, work, phase, budget.part(phase.share), index)
    export(vae, preset, source, work, start)


def train_phase(
    vae: AutoencoderKLWan, preset: Preset, source: Source, work: Path, phase: VaePhase, budget: Budget, index: int
) -> None:
    """Trains one phase; the VAE then has the averaged weights."""
    before = None
    if phase.hold:
        before = build_vae(preset.vae).to(source.device)
        before.load_state_dict(vae.state_dict())
    for part in (vae.encoder, vae.quant_conv):
        part.requires_grad_(not phase.decoder_only)
    plan = preset.vae_plan
    ema, peak = Ema(vae, plan.average), plan.peak * phase.peak
    unseen = held_out_clips(source, preset)
    batches = VaeBatches(source, (TRAINING_KEY, index), plan, phase.crops)

    def loss(step: int, share: float) -> Tensor:  # noqa: ARG001 (a course asks for both)
        generator = torch.Generator(source.device).manual_seed(step)
        return phase_loss(vae, before, batches.batch(step), phase, generator)

    def rate(share: float, step: int) -> float:
        return peak * cosine_fall(share, step, WARMUP)

    def judge() -> dict[str, float]:
        return held_out_psnr(vae, *unseen)

    optimizers, every = build_optimizers(vae, peak, 0.0), max(1, budget.steps // max(1, preset.evaluations // 2))
    state, log = work / f"vae-{phase.name}.safetensors", work / "vae.jsonl"
    run(Course(f"vae {phase.name}", vae, ema, optimizers, budget, rate, loss, judge, state, log, every))
    vae.requires_grad_(True)
    vae.load_state_dict(ema.weights)


def export(vae: AutoencoderKLWan, preset: Preset, source: Source, work: Path, start: Path | None) -> None:
    """Writes the VAE in diffusers layout, with the statistics that the transformer of ``start`` knows, or new ones."""
    mine = build_vae(preset.vae).to(source.device)
    mine.load_state_dict(vae.state_dict())
    if start is None:
        mean, std = measure_statistics(mine, source, preset)
    else:
        known = AutoencoderKLWan.load_config(start / "vae")
        mean, std = known["latents_mean"], known["latents_std"]
    mine.register_to_config(latents_mean=mean, latents_std=std)
    mine.save_pretrained(work / "vae")
