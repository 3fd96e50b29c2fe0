"""Run every means of saving memory once, small, on this machine's device, and compare with plain float32 on the CPU.

    python scripts/gpu_check.py [--device cuda] [--models nano FOLDER ...]

What a user with a card runs once (``make gpu-check``). For each model: a forward and a backward pass under each level
of memory, with the LoRA's gradient and the velocity beside the CPU's, the peak of the device's memory and the time.
Without a card it runs on the CPU. The exit code is 1 if anything is further off than its precision.
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from loraedit.app.progress import quiet_libraries
from loraedit.config import Resources
from loraedit.devices import autocasts, find_device, training_attention, training_precision
from loraedit.errors import LoraEditError
from loraedit.families import open_family
from loraedit.families.base import TIMESTEPS, Encoded, batch
from loraedit.families.card import ModelCard, read_card, resolve_model
from loraedit.flow import flow_matching_loss
from loraedit.lora import attach, lora_parameters
from loraedit.memory import checkpoints_kept, place
from loraedit.planning.cost import Shape
from loraedit.planning.fitting import LADDER
from loraedit.planning.job import named
from loraedit.types import Size

LEVELS = {
    **{named(rung) or "plain": rung for rung in LADDER},
    "fp8 weights": Resources(weights="fp8"),
    "fp8 weights, blocks on the host": Resources(weights="fp8", offload_blocks=True, offload_checkpoints=True),
}
NEAR = {"exact": 0.9999, "bfloat16": 0.99, "fp8": 0.9}
"""Least cosine similarity of gradient and velocity with the CPU's, by what computes."""


@dataclass(frozen=True)
class Outcome:
    """Of one level."""

    loss: float
    gradient: Tensor
    velocity: Tensor
    peak_bytes: int
    seconds: float


def main() -> int:
    """Run, and print the table; 1 if anything is too far off."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default=None)
    parser.add_argument("--models", nargs="+", default=["nano"])
    options = parser.parse_args()
    quiet_libraries("diffusers", "transformers")
    device, console, bad = find_device(options.device), Console(), 0
    table = Table("Model", "Means", "Loss", "Gradient", "Velocity", "Peak GB", "s", "")
    for model in options.models:
        card = read_card(resolve_model(model))
        reference = run(card, Resources(), torch.device("cpu"), precise=True)
        for name, level in LEVELS.items():
            try:
                found = run(card, level, device)
            except (torch.OutOfMemoryError, LoraEditError) as error:
                table.add_row(model, name, "", "", "", "", "", f"did not run: {type(error).__name__}")
                continue
            alike = [_cosine(found.gradient, reference.gradient), _cosine(found.velocity, reference.velocity)]
            least = NEAR["fp8" if level.weights == "fp8" else "bfloat16" if autocasts(device) else "exact"]
            ok = min(alike) >= least
            bad += not ok
            table.add_row(
                model, name, f"{found.loss:.5f}", *(f"{value:.5f}" for value in alike),
                f"{found.peak_bytes / 1e9:.3f}" if found.peak_bytes else "", f"{found.seconds:.2f}",
                "ok" if ok else f"below {least}",
            )  # fmt: skip
    console.print(f"Device {device}, torch {torch.__version__}. Beside plain float32 on the CPU (cosine similarity):")
    console.print(table)
    return 1 if bad else 0


def run(card: ModelCard, resources: Resources, device: torch.device, precise: bool = False) -> Outcome:
    """The gradient of a training step and a velocity, on a clip of noise; ``precise`` is in the weights' precision."""
    family = open_family(card, resources)
    transformer = family.load_transformer(family.experts[0], device)
    attach(transformer, family.lora_targets("all"), rank=4, seed=0)
    with torch.no_grad():
        for index, (name, parameter) in enumerate(lora_parameters(transformer)):
            if name.endswith("lora_B"):
                parameter.normal_(std=0.02, generator=torch.Generator().manual_seed(index))
    place(transformer, resources, device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    sample, start = batch([_noise(card).to(device)]), time.monotonic()
    assert sample.target is not None
    level = torch.tensor([0.5 * TIMESTEPS], device=device)
    transformer.train()
    with nullcontext() if precise else training_precision(device), checkpoints_kept(resources, device):
        velocity = family.velocity(transformer, sample.target, level, sample)
    loss = flow_matching_loss(velocity, sample.target, torch.zeros_like(velocity), torch.ones_like(velocity))
    with training_attention(device):
        loss.backward()  # type: ignore[no-untyped-call]
    gradients = [each.grad for _, each in lora_parameters(transformer) if each.grad is not None]
    gradient = torch.cat([each.flatten().float().cpu() for each in gradients])
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
    found = Outcome(float(loss.detach()), gradient, velocity.detach().float().cpu(), peak, time.monotonic() - start)
    del transformer
    gc.collect()
    return found


def _noise(card: ModelCard) -> Encoded:
    """What a clip of 9 frames at the smallest size that shows anything would be encoded to, as noise."""
    side = 4 * card.multiple_px
    generator = torch.Generator().manual_seed(0)
    shapes = open_family(card).encoded_shapes(Shape(2 * card.frame_step + 1, Size(side, side)).latent(card))
    return Encoded(**{name: torch.randn(shape, generator=generator) for name, shape in shapes.items()})


def _cosine(one: Tensor, other: Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(one.flatten(), other.flatten(), dim=0))


if __name__ == "__main__":
    sys.exit(main())
