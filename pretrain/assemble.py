"""Puts the trained parts together: a checkpoint in diffusers layout, half precision, with a model card."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler, WanImageToVideoPipeline
from torch import nn

from pretrain.config import SHIPPED, Preset
from pretrain.text import TEXT_TOKENS
from pretrain.transformer import averaged

__all__ = ["SHIPPED", "assemble", "ship"]

"""The checkpoint that ships with the package."""
MAX_BYTES = 60_000_000

MODEL_CARD = """# nano

The model that ships with loraedit: a Wan image-to-video checkpoint with small numbers, in diffusers layout, for CPUs,
tests and demonstrations. Apache-2.0, like the code. `pretrain/README.md` in the repository says how it was made, and
from what. It never saw a mask inside a frame; the LoRA in `prior/`, from which training starts, reads them.

| figure | value |
|---|---|
{rows}

Limits: frames of about {side}x{side} pixels, patterns and photographs rather than fine detail, motion of objects over a
background. Faces, text and long prompts are beyond it.
"""
NAMES = {
    "psnr": "VAE, PSNR on held-out procedural clips, dB",
    "psnr_object": "the same, the moving object alone, dB",
    "held_out": "transformer, velocity loss on held-out clips",
    "held_out_large": "the same, larger clips",
    "step": "transformer, training steps",
}


def assemble(preset: Preset, work: Path, start: Path | None) -> Path:
    """Writes the whole checkpoint, from the averaged weights so far, into ``work/checkpoint``; returns the folder.

    Args:
        start: the checkpoint whose parts are taken where ``work`` has none, and whose prior and card are kept.
    """
    model, tokenizer = averaged(preset, work, start)
    vae = work / "vae" if (work / "vae").is_dir() or start is None else start / "vae"
    pipeline = WanImageToVideoPipeline(
        tokenizer=tokenizer,
        text_encoder=halved(model.text_encoder),
        vae=AutoencoderKLWan.from_pretrained(vae, dtype=torch.float16),
        transformer=halved(model.transformer),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=preset.transformer_plan.shift),
    )
    fresh = work / "checkpoint"
    shutil.rmtree(fresh, ignore_errors=True)
    pipeline.save_pretrained(fresh, safe_serialization=True)
    card = {
        "area_px": preset.area, "least_area_px": preset.area, "text_tokens": TEXT_TOKENS, "recipe": preset.recipe,
    }  # fmt: skip
    if start is not None:
        card = json.loads((start / "loraedit.json").read_text())
        if (start / "prior").is_dir():
            shutil.copytree(start / "prior", fresh / "prior")
    (fresh / "loraedit.json").write_text(json.dumps(card, indent=2) + "\n")
    (fresh / "README.md").write_text(model_card(preset, work))
    for path in fresh.rglob("*.safetensors"):
        path.chmod(0o644)
    return fresh


def ship(preset: Preset, work: Path, out: Path) -> None:
    """Copies ``work/checkpoint`` to where it ships from, its model card with the latest figures.

    Raises:
        SystemExit: it is larger than the wheel may be.
    """
    folder = work / "checkpoint"
    (folder / "README.md").write_text(model_card(preset, work))
    size = sum(path.stat().st_size for path in folder.rglob("*"))
    if size > MAX_BYTES:
        raise SystemExit(f"{folder} has {size:,} bytes, {MAX_BYTES:,} at most may ship. Choose a smaller preset.")
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(folder, out)
    print(f"{out}: {size:,} bytes", flush=True)


def halved(model: nn.Module) -> nn.Module:
    """Turns the weights into bfloat16, but for the few that diffusers computes in float32."""
    single = getattr(model, "_keep_in_fp32_modules", None) or []
    for name, parameter in model.named_parameters():
        if not any(part in name.split(".") for part in single):
            parameter.data = parameter.data.to(torch.bfloat16)
    return model


def model_card(preset: Preset, work: Path) -> str:
    """Returns the model card, with the last figures of the logs."""
    figures: dict[str, Any] = {}
    for name in ("vae", "transformer"):
        log = work / f"{name}.jsonl"
        figures |= json.loads(log.read_text().splitlines()[-1]) if log.exists() else {}
    rows = [f"| {text} | {figures[name]} |" for name, text in NAMES.items() if name in figures]
    for name, value in _footage(work).items():
        rows.append(f"| VAE, PSNR on real footage, {name}, dB | {value} |")
    return MODEL_CARD.format(rows="\n".join(rows), side=round(preset.area**0.5))


def _footage(work: Path) -> dict[str, float]:
    path = work / "footage.json"
    figures: dict[str, float] = json.loads(path.read_text()) if path.exists() else {}
    return figures
