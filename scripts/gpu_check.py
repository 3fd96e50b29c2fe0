"""Runs every way of saving memory once, small, on this machine's device, and compares with plain float32 on the CPU.

    python -m scripts.gpu_check [--device cuda] [--models FOLDER ...]

Users with a GPU run this once (``make gpu-check``). It covers nano, a small random checkpoint of every other family,
and the named models: a forward and a backward pass at each memory level. It prints how close the LoRA's gradient and
the velocity are to the CPU's, the peak of the device's memory, and the time. Named models are also loaded on the CPU,
in float32.
Without a GPU everything runs on the CPU. The exit code is 1 if a result is further off than its precision allows.
"""

from __future__ import annotations

import argparse
import gc
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from loraedit.cli.progress import quiet_libraries
from loraedit.diffusion.flow_matching import flow_matching_loss
from loraedit.errors import LoraEditError
from loraedit.families import open_family
from loraedit.families.base import TIMESTEPS, Encoded, Family, batch
from loraedit.families.card import NANO, ModelCard, read_card
from loraedit.families.hub import resolve_model
from loraedit.lora.adapter import attach, lora_parameters
from loraedit.planning.fitting import ladder
from loraedit.planning.job import describe_resources
from loraedit.planning.phase_cost import Shape
from loraedit.runtime.devices import autocasts, find_device, training_attention, training_precision
from loraedit.runtime.memory import checkpoints_kept, place
from loraedit.settings import Resources, WeightStore
from loraedit.types import Size

KINDS: tuple[WeightStore, ...] = ("fp8", "int8", "nf4") if find_spec("bitsandbytes") else ("fp8", "int8")
LEVELS = {
    **{describe_resources(rung) or "plain": rung for rung in ladder(blocks=2)},
    **{f"{kind} weights": Resources(weights=kind) for kind in KINDS},
    "int8 weights, blocks on the host": Resources(weights="int8", swap_blocks=2, offload_checkpoints=True),
}
WIDTH = 120
"""Columns of the table."""
NEAR = {"exact": 0.9999, "bfloat16": 0.99, "fp8": 0.98, "int8": 0.98, "nf4": 0.9}
"""Lowest cosine similarity of gradient and velocity with the CPU's, by the precision of the computation."""


@dataclass(frozen=True)
class Outcome:
    """Holds the figures of one memory level."""

    loss: float
    gradient: Tensor
    velocity: Tensor
    peak_bytes: int
    seconds: float


def argument_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default=None)
    parser.add_argument("--models", nargs="*", default=[])
    return parser


def main() -> int:
    """Runs all checks and prints the table; returns 1 if a result is too far off."""
    options = argument_parser().parse_args()
    quiet_libraries("diffusers", "transformers")
    with tempfile.TemporaryDirectory(prefix="loraedit-") as place:
        named_models = {model: resolve_model(model) for model in options.models}
        return check({"nano": NANO, **_small_checkpoints(Path(place)), **named_models}, find_device(options.device))


def check(models: Mapping[str, Path], device: torch.device) -> int:
    """Runs all levels on each checkpoint folder, given by name, and prints the table."""
    console, bad = Console(), 0
    console.width = max(console.width, WIDTH)
    table = Table("Model", "Memory level", "Loss", "Gradient", "Velocity", "Peak GB", "s", "", box=None)
    for model, folder in models.items():
        card = read_card(folder)
        reference = run(card, Resources(), torch.device("cpu"), precise=True)
        for name, level in LEVELS.items():
            label = model if level is next(iter(LEVELS.values())) else ""
            try:
                found = run(card, level, device)
            except (torch.OutOfMemoryError, LoraEditError) as error:
                table.add_row(label, name, "", "", "", "", "", f"did not run: {type(error).__name__}")
                continue
            alike = [_cosine(found.gradient, reference.gradient), _cosine(found.velocity, reference.velocity)]
            precision = "bfloat16" if autocasts(device) else "exact"
            least = NEAR[precision if level.weights == "auto" else level.weights]
            ok = min(alike) >= least
            bad += not ok
            table.add_row(
                label, name, f"{found.loss:.5f}", *(f"{value:.5f}" for value in alike),
                f"{found.peak_bytes / 1e9:.3f}" if found.peak_bytes else "", f"{found.seconds:.2f}",
                "ok" if ok else f"below {least}",
            )  # fmt: skip
    console.print(
        f"Device {device}, torch {torch.__version__}. Gradient and velocity are compared with plain float32 on the "
        "CPU (cosine similarity). nano and your own models are complete; all others are small, with random weights."
    )
    console.print(table)
    return 1 if bad else 0


def run(card: ModelCard, resources: Resources, device: torch.device, precise: bool = False) -> Outcome:
    """Computes a training gradient and a velocity on a clip of noise; ``precise`` keeps the weights' precision."""
    family = open_family(card, resources)
    transformer = with_lora(family, device)
    place(transformer, resources, device, resources.training_attention)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    sample, start = batch([_noise(card).to(device)]), time.monotonic()
    assert sample.target is not None
    level = torch.tensor([0.5 * TIMESTEPS], device=device)
    transformer.train()
    with nullcontext() if precise else training_precision(device), checkpoints_kept(transformer, resources, device):
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


def with_lora(family: Family, device: torch.device) -> nn.Module:
    """Loads the first transformer for a device (without moving it there), with a LoRA that has an effect."""
    transformer = family.load_transformer(family.experts[0], device)
    attach(transformer, family.lora_targets("all"), rank=4, seed=0)
    with torch.no_grad():
        for index, (name, parameter) in enumerate(lora_parameters(transformer)):
            if name.endswith("lora_B"):
                parameter.normal_(std=0.02, generator=torch.Generator().manual_seed(index))
    return transformer


def _small_checkpoints(place: Path) -> dict[str, Path]:
    """Writes the small checkpoints of the tests, in the published layout."""
    import scripts.trial  # noqa: F401 (brings the tests' helpers into reach)
    from parity import save_all  # isort: skip

    return save_all(place)


def _noise(card: ModelCard) -> Encoded:
    """Returns noise in the shapes of an encoded clip of 9 frames, at a small size that every model accepts."""
    side = 4 * card.multiple_px
    generator = torch.Generator().manual_seed(0)
    shapes = open_family(card).encoded_shapes(Shape(2 * card.frame_step + 1, Size(side, side)).latent(card))
    return Encoded(**{name: torch.randn(shape, generator=generator) for name, shape in shapes.items()})


def _cosine(one: Tensor, other: Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(one.flatten(), other.flatten(), dim=0))


if __name__ == "__main__":
    sys.exit(main())
