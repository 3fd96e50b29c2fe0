"""The VAE and the text encoder at their true sizes."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from loraedit.families import open_family
from loraedit.planning import Shape
from loraedit.runtime.memory import place_encoder, tile
from loraedit.settings import Resources
from loraedit.types import Size
from scripts.gpu_day.bench import Bench, free, now
from scripts.gpu_day.measuring import Peak
from scripts.gpu_day.plans import KEPT
from scripts.gpu_day.random_weights import random_component
from scripts.gpu_day.stage import Finding, Stage, near, told

__all__ = ["TEXT_STAGE", "VAE_STAGE"]

TILED = KEPT.model_copy(update={"tile_vae": True})
OFFLOADED = KEPT.model_copy(update={"offload_encoders": True})


def _vae(bench: Bench) -> Iterator[Finding]:
    for size in (bench.scale.small, bench.scale.large):
        yield from _coded(bench, size, "float32", KEPT)
        yield from _coded(bench, size, "float32 in tiles", TILED)
        yield from _coded(bench, size, "bfloat16", None)


def _coded(bench: Bench, size: Size, name: str, resources: Resources | None) -> Iterator[Finding]:
    """Encodes and decodes a clip of noise; only float32, in which the VAE is used, has plans."""
    card, frames = bench.card, bench.scale.long
    family, dtype = open_family(card), torch.float32 if resources else torch.bfloat16
    vae = random_component(bench, "vae", dtype)
    tile(vae, resources or Resources(), size.height, size.width)
    planned = bench.plans.of(frames, size, resources) if resources else {}
    shapes = {
        "vae_encode": (1, 3, frames, size.height, size.width),
        "vae_decode": (1, card.latent_channels, *Shape(frames, size).latent(card)),
    }
    for phase, word in (("vae_encode", "encoding"), ("vae_decode", "decoding")):
        run = family.vae_encode if phase == "vae_encode" else family.vae_decode
        start = now(bench.device)
        with Peak(bench.device, vae) as peak, torch.inference_mode():
            run(vae, torch.zeros(shapes[phase], dtype=dtype, device=bench.device))
        label = f"VAE, {frames} frames at {size}, {name}: {word}"
        yield told(label, now(bench.device) - start, "s")
        if phase in planned:
            yield near(f"{label}: peak", peak.bytes, planned[phase].peak_bytes)
        else:
            yield told(f"{label}: peak", peak.bytes / 1e9, "GB")
        free()


def _plan_vae(bench: Bench) -> None:
    for size in (bench.scale.small, bench.scale.large):
        for resources in (KEPT, TILED):
            bench.plans.of(bench.scale.long, size, resources)


def _text(bench: Bench) -> Iterator[Finding]:
    family = open_family(bench.card)
    for name, resources in (("on the device", KEPT), ("offloaded", OFFLOADED)):
        encoder = random_component(bench, "text_encoder", torch.bfloat16)
        if resources.offload_encoders:
            encoder.cpu()
            free()
        with Peak(bench.device, encoder) as peak:
            place_encoder(encoder, resources, bench.device)
            start = now(bench.device)
            with torch.inference_mode(), bench.device:
                family.run_encoder("text_encoder", encoder)
            seconds = now(bench.device) - start
        yield told(f"text encoder {name}: a prompt", seconds, "s")
        planned = bench.plans.of(bench.scale.short, bench.scale.small, resources)["text_encode"]
        yield near(f"text encoder {name}: peak", peak.bytes, planned.peak_bytes)
        del encoder
        free()


def _plan_text(bench: Bench) -> None:
    for resources in (KEPT, OFFLOADED):
        bench.plans.of(bench.scale.short, bench.scale.small, resources)


VAE_STAGE = Stage(
    "vae", 90, "the VAE on a long clip at two sizes, in float32, in tiles and in bfloat16",
    "each peak in float32 is within 10 % of its plan", _vae, _plan_vae,
)  # fmt: skip
TEXT_STAGE = Stage(
    "text-encoder", 45, "the text encoder on one prompt, on the device and offloaded",
    "each peak is within 10 % of its plan", _text, _plan_text,
)  # fmt: skip
