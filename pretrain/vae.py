"""Trains nano's VAE: ``python -m pretrain.vae --work DIR [--steps N --decoder-steps M --polish-steps L]``.

The model is diffusers' own AutoencoderKLWan with 4x4 spatial and 2x temporal reduction. Training has three stages: the
whole VAE; the decoder alone, with more photographs among its clips; the whole VAE again with hardly any KL term, while
its latents are held close to what they were. It resumes where it was stopped; everything is drawn from
``(seed, step)``, so a stop changes nothing.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import patchify, unpatchify
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from torch import Tensor

from pretrain.clips import photo_pan, render, sample_scene
from pretrain.optim import Ema, build_optimizers, set_learning_rate
from pretrain.photos import photos
from pretrain.state import append_log, load_state, save_state
from pretrain.textures import Image, Rng

CONFIG = {
    "base_dim": 16, "decoder_base_dim": 24, "z_dim": 16, "dim_mult": [2, 2], "num_res_blocks": 1, "attn_scales": [],
    "temperal_downsample": [True], "patch_size": 2, "in_channels": 12, "out_channels": 12, "is_residual": True,
    "scale_factor_spatial": 4, "scale_factor_temporal": 2,
}  # fmt: skip
KL_WEIGHT = 1e-6
POLISH_KL_WEIGHT = 3e-8
"""KL weight of the last stage. That of the first costs a fifth of the squared error, as noise for the decoder."""
HOLD_WEIGHT = 0.02
"""Weight of the distance between polished and previous latents, in their own standard deviations."""
BATCH = 8
STEPS, DECODER_STEPS, POLISH_STEPS = 2400, 1400, 2000


def build() -> AutoencoderKLWan:
    """Builds an untrained VAE whose residual branches start at zero."""
    torch.manual_seed(0)
    vae = AutoencoderKLWan(**CONFIG, latents_mean=[0.0] * 16, latents_std=[1.0] * 16)
    for name, parameter in vae.named_parameters():
        if ("resnets" in name and "conv2" in name) or ("attentions" in name and "proj" in name):
            torch.nn.init.zeros_(parameter)
    return vae


def encode(vae: AutoencoderKLWan, pixels: Tensor) -> DiagonalGaussianDistribution:
    """Returns the posterior of ``[B, 3, F, H, W]`` in [-1, 1]: frame 1, then all others as one chunk.

    The stock path encodes four frames per chunk. The causal cache makes both equal up to rounding, and this one is
    about three times as fast.
    """
    vae.clear_cache()
    x = patchify(pixels, vae.config.patch_size)
    parts = []
    for chunk in (x[:, :, :1], x[:, :, 1:]):
        if chunk.shape[2]:
            vae._enc_conv_idx = [0]
            parts.append(vae.encoder(chunk, feat_cache=vae._enc_feat_map, feat_idx=vae._enc_conv_idx))
    vae.clear_cache()
    return DiagonalGaussianDistribution(vae.quant_conv(torch.cat(parts, 2)).float())


def decode(vae: AutoencoderKLWan, latents: Tensor) -> Tensor:
    """Decodes ``[B, 16, f, h, w]`` to pixels, not clamped; the first latent frame, then all others as one chunk."""
    vae.clear_cache()
    z = vae.post_quant_conv(latents)
    parts = []
    for index, chunk in enumerate((z[:, :, :1], z[:, :, 1:])):
        if chunk.shape[2]:
            vae._conv_idx = [0]
            parts.append(vae.decoder(chunk, feat_cache=vae._feat_map, feat_idx=vae._conv_idx, first_chunk=index == 0))
    vae.clear_cache()
    return unpatchify(torch.cat(parts, 2), vae.config.patch_size)


def to_tensor(clips: list[Image]) -> Tensor:
    """Converts uint8 clips ``[F, H, W, 3]`` to float32 ``[B, 3, F, H, W]`` in [-1, 1]."""
    return torch.from_numpy(np.stack(clips)).permute(0, 4, 1, 2, 3).float() / 127.5 - 1


def grey_holes(rng: Rng, clip: Image) -> Image:
    """Fills a box that may move, or everything after the first frame, with the method's mid grey."""
    clip = clip.copy()
    if rng.random() < 0.3:
        clip[1:] = 128
        return clip
    frames, height, width, _ = clip.shape
    h, w = rng.uniform(0.2, 0.8) * height, rng.uniform(0.2, 0.8) * width
    x, y = rng.uniform(0, width - w), rng.uniform(0, height - h)
    dx, dy = rng.uniform(-0.02, 0.02, 2) * width
    for frame in range(int(rng.integers(2)), frames):
        left, top = (int(np.clip(v, 0, n)) for v, n in ((x + dx * frame, width), (y + dy * frame, height)))
        clip[frame, top : top + int(h), left : left + int(w)] = 128
    return clip


def sample_clip(rng: Rng, frames: int, height: int, width: int) -> Image:
    """Draws a training clip: mostly scenes, some photographs under a moving camera, a fifth with grey holes."""
    bank = photos()
    if rng.random() < 0.35:
        clip = photo_pan(rng, bank, frames, height, width)
    else:
        clip = render(sample_scene(rng, bank), frames, height, width, int(rng.integers(2**31))).frames
    return grey_holes(rng, clip) if rng.random() < 0.2 else clip


def photo_views(rng: Rng, bank: tuple[Image, ...], frames: int, height: int, width: int) -> Image:
    """Moves and zooms a camera over a photograph, most of which is in view, so that detail is fine; uint8 clip."""
    photo = bank[rng.integers(len(bank))]
    if rng.random() < 0.5:
        photo = photo[:, ::-1]
    limit = min(photo.shape[0] / height, photo.shape[1] / width)
    scales = np.linspace(*np.clip(rng.uniform(0.25, 1.0) * limit * (1 + rng.uniform(-0.1, 0.1, 2)), 0.5, limit), frames)
    room = np.array(photo.shape[:2]) - max(scales) * np.array([height, width])
    first = rng.uniform(0, 1, 2) * room
    path = np.clip(first + np.outer(np.linspace(0, 1, frames), rng.normal(0, 0.06, 2) * photo.shape[0]), 0, room)
    clip = []
    for scale, (y, x) in zip(scales, path, strict=True):
        part = photo[int(y) : int(y + scale * height), int(x) : int(x + scale * width)]
        clip.append(cv2.resize(part, (width, height), interpolation=cv2.INTER_AREA))
    return np.stack(clip)


def sample_batch(seed: int, step: int) -> Tensor:
    """Draws the batch of one step: half the time crops of nine frames, otherwise whole clips of seventeen."""
    rng = np.random.default_rng((seed, step))
    if step % 2:
        clips = []
        for _ in range(BATCH // 2):
            clip = sample_clip(rng, 9, 96, 96)
            for _ in range(3):
                y, x = rng.integers(0, 97 - 40, 2)
                clips.append(clip[:, y : y + 40, x : x + 40])
        return to_tensor(clips)
    return to_tensor([sample_clip(rng, 17, 64, 64) for _ in range(BATCH // 2)])


def decoder_batch(seed: int, step: int) -> Tensor:
    """Draws the batch of one step of the decoder's own stage: whole clips, half of them finely detailed photographs."""
    rng, bank = np.random.default_rng((seed, step, 2)), photos()
    views = [photo_views(rng, bank, 17, 64, 64) for _ in range(BATCH // 4)]
    return to_tensor([*views, *(sample_clip(rng, 17, 64, 64) for _ in range(BATCH // 4))])


def loss_of(vae: AutoencoderKLWan, pixels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Returns the reconstruction loss (squared, absolute, and absolute error of gradients) plus a weak KL term."""
    with torch.autocast("cpu", torch.bfloat16):
        posterior = encode(vae, pixels)
        noise = torch.randn(posterior.mean.shape, generator=generator)
        output = decode(vae, posterior.mean + posterior.std * noise).float()
    loss, squared = reconstruction(output, pixels)
    return loss + KL_WEIGHT * posterior.kl().mean(), squared


def polish_loss(
    vae: AutoencoderKLWan, before: AutoencoderKLWan, pixels: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Returns reconstruction, a minimal KL term, and the distance of the means from those of the previous VAE."""
    with torch.autocast("cpu", torch.bfloat16):
        posterior = encode(vae, pixels)
        noise = torch.randn(posterior.mean.shape, generator=generator)
        output = decode(vae, posterior.mean + posterior.std * noise).float()
        with torch.no_grad():
            known = encode(before, pixels).mean
    spread = known.std((0, 2, 3, 4), keepdim=True)
    held = ((posterior.mean - known) / spread).square().mean()
    loss, squared = reconstruction(output, pixels)
    return loss + POLISH_KL_WEIGHT * posterior.kl().mean() + HOLD_WEIGHT * held, squared


def decoder_loss(vae: AutoencoderKLWan, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the reconstruction loss of the encoder's means, which stay unchanged."""
    with torch.autocast("cpu", torch.bfloat16):
        with torch.no_grad():
            latents = encode(vae, pixels).mean
        return reconstruction(decode(vae, latents).float(), pixels)


def reconstruction(output: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the loss, and its squared error alone."""
    error = output - pixels
    edges = (error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()) / 2
    squared = error.square().mean()
    return 4 * squared + 0.2 * error.abs().mean() + 0.2 * edges, squared


def learning_rate(step: int, steps: int, peak: float) -> float:
    """Returns the rate of a step: warm-up for 100 steps, constant, then a cosine to a twentieth over the last 60 %."""
    fall = max(0.0, (step / steps - 0.4) / 0.6)
    return peak * min(1.0, (step + 1) / 100) * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * min(1.0, fall))))


@torch.no_grad()
def held_out(vae: AutoencoderKLWan) -> dict[str, float]:
    """Returns the PSNR in dB on unseen scenes: over the whole frame, and over the box of the first object."""
    bank = photos()
    full, boxed = [], []
    for seed in range(12):
        rng = np.random.default_rng((999, seed))
        clip = render(sample_scene(rng, bank), 17, 96, 96)
        pixels = to_tensor([clip.frames])
        mean = encode(vae, pixels).mean
        error = (decode(vae, mean).clamp(-1, 1) - pixels).square().mean(1)[0]
        full.append(psnr(error.mean()))
        inside = torch.from_numpy(clip.visible > 0.5)
        if inside.any():
            boxed.append(psnr(error[inside].mean()))
    return {"psnr": round(float(np.mean(full)), 2), "psnr_object": round(float(np.mean(boxed)), 2)}


def psnr(squared: Tensor) -> float:
    """Converts a mean squared error between values in [-1, 1] to dB."""
    return -10 * math.log10(float(squared.detach()) / 4 + 1e-10)


@torch.no_grad()
def measure_statistics(vae: AutoencoderKLWan, clips: int = 96) -> tuple[list[float], list[float]]:
    """Returns mean and standard deviation of every latent channel over clips of the training kind."""
    rng = np.random.default_rng(777)
    latents = [encode(vae, to_tensor([sample_clip(rng, 17, 64, 64)])).mean for _ in range(clips)]
    flat = torch.cat(latents).transpose(0, 1).flatten(1)
    return flat.mean(1).tolist(), flat.std(1).tolist()


def train(
    work: Path, steps: int, decoder_steps: int, polish_steps: int, peak: float, start: Path | None = None
) -> None:
    """Trains stage by stage, and writes the averaged VAE and its statistics to ``work/vae``.

    Args:
        work: the folder of the training.
        steps: of the first stage.
        decoder_steps: of the second stage.
        polish_steps: of the third stage.
        peak: highest learning rate.
        start: an assembled checkpoint whose VAE is polished; its transformer need not be trained again, because the
            latents keep their meaning.
    """
    work.mkdir(parents=True, exist_ok=True)
    vae = build()
    ema = Ema(vae, 0.998)

    def whole(step: int) -> tuple[Tensor, Tensor]:
        return loss_of(vae, sample_batch(1, step), torch.Generator().manual_seed(step))

    def decoder(step: int) -> tuple[Tensor, Tensor]:
        return decoder_loss(vae, decoder_batch(1, step))

    if start is None:
        _train_stage(vae, ema, work / "vae.safetensors", steps, peak, whole, lambda done: {"step": done})
        vae.load_state_dict(ema.weights)
        _freeze_encoder(vae, True)
        state = work / "vae-decoder.safetensors"
        _train_stage(vae, ema, state, decoder_steps, peak, decoder, lambda done: {"step": steps, "decoder_step": done})
        _freeze_encoder(vae, False)
    else:
        ema = Ema(AutoencoderKLWan.from_pretrained(start / "vae", dtype=torch.float32), ema.decay)
    vae.load_state_dict(ema.weights)
    before = build()
    before.load_state_dict(ema.weights)

    def polish(step: int) -> tuple[Tensor, Tensor]:
        pixels = sample_batch(2, step) if step % 2 else decoder_batch(2, step)
        return polish_loss(vae, before, pixels, torch.Generator().manual_seed(step))

    counts = {"step": steps, "decoder_step": decoder_steps}
    state = work / "vae-polish.safetensors"
    _train_stage(vae, ema, state, polish_steps, peak / 2, polish, lambda done: {**counts, "polish_step": done})
    export(work, ema, start)


def _freeze_encoder(vae: AutoencoderKLWan, frozen: bool) -> None:
    for part in (vae.encoder, vae.quant_conv):
        part.requires_grad_(not frozen)


def _train_stage(
    vae: AutoencoderKLWan,
    ema: Ema,
    state: Path,
    steps: int,
    peak: float,
    loss_at: Callable[[int], tuple[Tensor, Tensor]],
    counted: Callable[[int], dict[str, float]],
) -> None:
    """Trains the parameters that require gradients, from the saved state if there is one.

    Args:
        loss_at: returns the loss of a step, and its squared error alone.
        counted: returns how the log names the steps done.
    """
    start = time.monotonic()
    optimizers = build_optimizers(vae, peak, weight_decay=0.0)
    for step in range(load_state(state, vae, ema, optimizers), steps):
        set_learning_rate(optimizers, learning_rate(step, steps, peak))
        loss, squared = loss_at(step)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        ema.update(vae, step)
        if (step + 1) % 250 == 0 or step + 1 == steps:
            save_state(state, step + 1, vae, ema, optimizers)
            seconds = round(time.monotonic() - start)
            _report(state.parent, ema, **counted(step + 1), train=round(psnr(squared), 2), seconds=seconds)


def _report(work: Path, ema: Ema, **row: float) -> None:
    """Logs how well the averaged VAE does on unseen clips."""
    averaged = build()
    averaged.load_state_dict(ema.weights)
    append_log(work / "vae.jsonl", **row, **held_out(averaged))


def export(work: Path, ema: Ema, start: Path | None) -> None:
    """Writes the averaged VAE in diffusers layout, with the latent statistics of ``start`` if it is given."""
    vae = build()
    vae.load_state_dict(ema.weights)
    if start is None:
        mean, std = measure_statistics(vae)
    else:
        known = AutoencoderKLWan.load_config(start / "vae")
        mean, std = known["latents_mean"], known["latents_std"]
    vae.register_to_config(latents_mean=mean, latents_std=std)
    vae.save_pretrained(work / "vae")


def argument_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path(".cache/pretrain"))
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--decoder-steps", type=int, default=DECODER_STEPS)
    parser.add_argument("--polish-steps", type=int, default=POLISH_STEPS)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--start", type=Path, default=None, help="a checkpoint whose VAE is to be polished")
    return parser


if __name__ == "__main__":
    options = argument_parser().parse_args()
    train(options.work, options.steps, options.decoder_steps, options.polish_steps, options.lr, options.start)
