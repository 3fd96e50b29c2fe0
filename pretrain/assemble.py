"""Puts the trained parts together: a checkpoint in diffusers layout, half precision, with a model card."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler, WanImageToVideoPipeline

from pretrain.config import Preset
from pretrain.text import TEXT_TOKENS
from pretrain.transformer import averaged

__all__ = ["SHIPPED", "assemble"]

SHIPPED = Path(__file__).parents[1] / "src/loraedit/nano"
"""The checkpoint that ships with the package."""

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


def assemble(preset: Preset, work: Path, out: Path, start: Path | None) -> None:
    """Writes the whole checkpoint, from the averaged weights so far, and moves it into place.

    Args:
        start: the checkpoint whose parts are taken where ``work`` has none, and whose prior and card are kept.
    """
    model, tokenizer = averaged(preset, work, start)
    vae = work / "vae" if (work / "vae").is_dir() or start is None else start / "vae"
    pipeline = WanImageToVideoPipeline(
        tokenizer=tokenizer,
        text_encoder=model.text_encoder.to(torch.bfloat16),
        vae=AutoencoderKLWan.from_pretrained(vae, dtype=torch.float16),
        transformer=model.transformer.to(torch.bfloat16),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=preset.transformer_plan.shift),
    )
    fresh = work / "checkpoint"
    shutil.rmtree(fresh, ignore_errors=True)
    pipeline.save_pretrained(fresh, safe_serialization=True)
    card = {"area_px": preset.area, "text_tokens": TEXT_TOKENS, "recipe": preset.recipe}
    if start is not None:
        card = json.loads((start / "loraedit.json").read_text())
        if (start / "prior").is_dir():
            shutil.copytree(start / "prior", fresh / "prior")
    (fresh / "loraedit.json").write_text(json.dumps(card, indent=2) + "\n")
    (fresh / "README.md").write_text(model_card(preset, work))
    if out != fresh:
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(fresh, out)
    for path in out.rglob("*.safetensors"):
        path.chmod(0o644)
    print(f"{out}: {sum(path.stat().st_size for path in out.rglob('*')):,} bytes", flush=True)


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
