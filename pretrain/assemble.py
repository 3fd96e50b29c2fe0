"""Assembles the trained parts to a checkpoint in diffusers layout, in half precision, with nano's card.

    python -m pretrain.assemble --work DIR [--start CHECKPOINT] [--out src/loraedit/nano]

With --start, only the VAE comes from DIR.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKLWan,
    FlowMatchEulerDiscreteScheduler,
    WanImageToVideoPipeline,
)

from pretrain.optim import Ema
from pretrain.state import load_state
from pretrain.text import TEXT_TOKENS
from pretrain.transformer import SHIFT, Nano, caption_tokenizer, load_weights

NANO = Path(__file__).parents[1] / "src/loraedit/nano"
MAX_BYTES = 25_000_000

CARD: dict[str, Any] = {
    "area_px": 64 * 64,
    "text_tokens": TEXT_TOKENS,
    "recipe": {
        "steps": 30, "reference_steps": 20, "rank": 16, "lr": 1e-3, "edit_weight": 4.0, "colour_variants": 6,
        "prior": True, "fill": "carry", "restore_detail": True, "strength": 0.8, "segment_frames": 33,
        "sampling_steps": 20, "guidance": 1.0,
    },
}  # fmt: skip


MODEL_CARD = """# nano

The model that ships with loraedit: a Wan image-to-video checkpoint with small numbers, in diffusers layout, for CPUs,
tests and demonstrations. Apache-2.0, like the code. How it was made, and from what: `pretrain/README.md` in the
repository. It never saw a mask inside a frame; the LoRA in `prior/`, from which every fit starts, reads them.

| what | figure |
|---|---|
| VAE, PSNR on held-out procedural clips of 96x96x17 | {psnr} dB (moving thing alone: {psnr_object} dB) |
| VAE, PSNR on unseen bikes.mp4 / vtest.avi, windows of {side}x{side} pixels | {bikes_window} / {vtest_window} dB |
| the same, the whole frame shrunk to about {side}x{side} pixels | {bikes_64} / {vtest_64} dB |
| the same, shrunk to about 128x128 | {bikes_128} / {vtest_128} dB |
| best linear code of as many numbers, shrunk to {side}x{side} | {bikes_linear} / {vtest_linear} dB |
| VAE, training steps; of its decoder alone; of its polish | {vae_steps}; {decoder_step}; {polish_step} |
| transformer, velocity loss on held-out clips of 64x64x17 / 80x80x17 | {held_out} / {held_out_80} |
| transformer, training steps | {step} |

Limits: frames of about {side}x{side} pixels, patterns and photographs rather than fine detail, motion as of things that
move over a background. Faces, text and long prompts are beyond it.
"""


def model_card(work: Path) -> str:
    """Returns the text of the model card, with figures from the training logs."""
    vae, transformer = (
        json.loads((work / f"{name}.jsonl").read_text().splitlines()[-1]) for name in ("vae", "transformer")
    )
    footage = json.loads((work / "footage.json").read_text())
    more = {"step": transformer["step"], "vae_steps": vae["step"], "side": round(CARD["area_px"] ** 0.5)}
    figures = {**transformer, **vae, **footage, **more}
    return MODEL_CARD.format(**figures)


def assemble(work: Path, out: Path, start: Path | None = None) -> None:
    """Writes the whole checkpoint with the transformer's averaged weights so far, then moves it into place.

    Args:
        work: the folder of the training.
        out: the folder of the checkpoint.
        start: a checkpoint to take transformer, text encoder and prior from instead.
    """
    tokenizer = caption_tokenizer()
    model = Nano(len(tokenizer))
    if start is None:
        ema = Ema(model, 0.0)
        load_state(work / "transformer.safetensors", model, ema, [])
        model.load_state_dict(ema.weights)
    else:
        load_weights(model, start)
    model.half()
    pipeline = WanImageToVideoPipeline(
        tokenizer=tokenizer,
        text_encoder=model.text_encoder,
        vae=AutoencoderKLWan.from_pretrained(work / "vae", dtype=torch.float16),
        transformer=model.transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=SHIFT),
    )
    fresh = work / "nano"
    shutil.rmtree(fresh, ignore_errors=True)
    pipeline.save_pretrained(fresh, safe_serialization=True)
    (fresh / "loraedit.json").write_text(json.dumps(CARD, indent=2) + "\n")
    if start is not None:
        shutil.copytree(start / "prior", fresh / "prior")
    size = sum(path.stat().st_size for path in fresh.rglob("*"))
    if size > MAX_BYTES:
        raise SystemExit(f"nano would take {size:,} bytes, more than {MAX_BYTES:,}.")
    (fresh / "README.md").write_text(model_card(work))
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(fresh, out)
    for path in out.rglob("*.safetensors"):
        path.chmod(0o644)
    print(f"{out}: {size:,} bytes")


def argument_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path(".cache/pretrain"))
    parser.add_argument("--start", type=Path, default=None, help="a checkpoint to take all but the VAE from")
    parser.add_argument("--out", type=Path, default=NANO)
    return parser


if __name__ == "__main__":
    options = argument_parser().parse_args()
    assemble(options.work, options.out, options.start)
