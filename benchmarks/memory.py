"""Compares the memory that a run takes with what a plan says, on the CPU, for a random model of 1.6 GB.

    python -m benchmarks.memory [--page docs/models-and-memory.md]

The CPU stands for the device: swapped blocks and offloaded checkpoints are copied between separate buffers, as they
are on a GPU. Each rung of the memory ladder trains two steps and samples in a process of its own. The bytes that live
on the "device" are counted operation by operation, and the operating system says what the process took at most.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.tables import put_section
from loraedit.families import open_family
from loraedit.families.base import Encoded, Family, batch
from loraedit.families.card import ModelCard, read_card
from loraedit.families.kept_weights import keeping_weights
from loraedit.families.registry import block_count
from loraedit.lora.adapter import attach_lora, save_lora
from loraedit.planning import Cost, Shape, measure_cost
from loraedit.planning.fitting import ladder
from loraedit.planning.host import HostPlan, process_bytes
from loraedit.planning.meter import Meter
from loraedit.runtime.devices import converts_weights, training_precision
from loraedit.runtime.memory import weights_held
from loraedit.sampling.transformers import place_for_sampling
from loraedit.settings import Resources, TrainSettings
from loraedit.training import loop
from loraedit.types import Size

CPU = torch.device("cpu")
SHAPE = Shape(9, Size(128, 160))
SETTINGS = TrainSettings(steps=2, rank=8, lr=1e-4)
TRANSFORMER = {"num_layers": 14, "num_attention_heads": 12, "attention_head_dim": 128, "ffn_dim": 6144}
GB = 1e9


@dataclass(frozen=True)
class Taken:
    """Holds the bytes that a phase took."""

    weights: int
    working: int
    host: int
    checkpoints: int
    resident: int


def argument_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--page", type=Path)
    parser.add_argument("--model", type=Path, help="(used by the script itself)")
    parser.add_argument("--rung", type=int, help="(used by the script itself)")
    return parser


def main() -> int:
    """Runs all rungs, prints a table, and returns 1 if a figure is further off than it should be."""
    options = argument_parser().parse_args()
    if options.rung is not None:
        print(json.dumps(run_rung(read_card(options.model), options.rung)))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        model = write_model(Path(folder) / "model")
        rows, lines = [], [_line(HEAD), _line(["---"] * len(HEAD))]
        for rung in range(len(rungs_of(read_card(model)))):
            rows.append(_in_process_of_its_own(model, rung))
            lines.append(_line(_cells(rows[-1])))
            print(lines[-1], flush=True)
    text = "\n".join(lines)
    if options.page is not None:
        put_section(options.page, "measured", f"{EXPLAINED}\n{text}")
    return int(any(not sound(row) for row in rows))


EXPLAINED = """
A random model of Wan's class with 0.6 B parameters, 9 frames at 160x128, on a CPU that stands for the device. *Planned*
and *measured* are weights and tensors that live on the device at the same time; the measured ones are counted operation
by operation while the model trains two steps or samples. The *process* is what the operating system says it took at
most.
"""
HEAD = ("measures", "phase", "planned", "measured", "off by", "process planned", "process measured", "off by")


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cells(row: dict[str, Any]) -> list[str]:
    parts = [row["measures"] or "none", row["phase"]]
    for planned, measured in ((row["planned"], row["measured"]), (row["process_planned"], row["process_measured"])):
        parts += [f"{planned / GB:.3f} GB", f"{measured / GB:.3f} GB", f"{measured / planned - 1:+.1%}"]
    return parts


def sound(row: dict[str, Any]) -> bool:
    """Returns whether what lives is within 5 % of the plan, and the process within 15 %."""
    near = abs(row["measured"] / row["planned"] - 1) <= 0.05
    return near and abs(row["process_measured"] / row["process_planned"] - 1) <= 0.15


def _in_process_of_its_own(model: Path, rung: int) -> dict[str, Any]:
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.memory", "--model", str(model), "--rung", str(rung)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def rungs_of(card: ModelCard) -> list[tuple[str, Resources]]:
    """Returns the cases by phase: the ladder in training, also with half of the blocks swapped, and sampling."""
    rungs = ladder(block_count(card))
    partly = Resources(checkpointing=True, swap_blocks=block_count(card) // 2)
    int8 = rungs[-1].model_copy(update={"weights": "int8"})
    return [*(("train", rung) for rung in (*rungs[:2], partly, *rungs[2:], int8)), ("sample", partly)]


def run_rung(card: ModelCard, rung: int) -> dict[str, Any]:
    """Plans and runs one case, and returns both figures."""
    from loraedit.planning import describe_resources

    phase, resources = rungs_of(card)[rung]
    costs = measure_cost(card, SHAPE, SETTINGS, resources, on_cpu=True)
    base = process_bytes()
    host = HostPlan(SHAPE, resources.reload_weights, True, converts_weights(CPU), base).bytes(costs)
    family = open_family(card, resources)
    with keeping_weights():
        taken = trained(family) if phase == "train" else sampled(family)
    cost: Cost = costs[phase]
    return {
        "measures": describe_resources(resources),
        "phase": phase,
        "planned": cost.peak_bytes,
        "measured": taken.weights + taken.working,
        "process_planned": host[phase] - costs["vae_encode"].loaded_bytes,  # no VAE is read here
        "process_measured": taken.resident,
    }


def trained(family: Family) -> Taken:
    """Trains two steps and returns what they took."""
    transformer = family.load_transformer(family.experts[0], CPU)
    with tempfile.TemporaryDirectory() as folder:
        meters: list[Meter] = []
        step = loop.take_step

        def metered(*about: Any) -> float:
            with Meter(transformer) as meter:
                loss = step(*about)
            meters.append(meter)
            return loss

        loop.take_step = metered
        stage = loop.Stage([sample_of(family)], [1])
        loop.train(family, family.experts[0], transformer, stage, SETTINGS, Path(folder) / "state.safetensors")
    moments = 2 * sum(p.numel() * 4 for p in transformer.parameters() if p.requires_grad)
    held = weights_held(transformer)
    return Taken(held.device, meters[-1].peak + moments, held.host, 0, peak_of_process())


def sampled(family: Family) -> Taken:
    """Runs one forward pass with a LoRA and returns what it took."""
    transformer = family.load_transformer(family.experts[0], CPU)
    with tempfile.TemporaryDirectory() as folder:
        loop.attach(transformer, family.lora_targets("all"), SETTINGS.rank, 0)
        save_lora(Path(folder) / "lora.safetensors", family, transformer, {})
        transformer = family.load_transformer(family.experts[0], CPU)
        attach_lora(Path(folder) / "lora.safetensors", family, transformer)
    place_for_sampling(family, transformer, CPU)
    sample = batch([sample_of(family)])
    assert sample.target is not None
    precision = training_precision(CPU) if converts_weights(CPU) else nullcontext()
    with Meter(transformer) as meter, torch.inference_mode(), precision:
        family.velocity(transformer, sample.target, torch.tensor([500.0]), sample)
    held = weights_held(transformer)
    return Taken(held.device, meter.peak, held.host, 0, peak_of_process())


def peak_of_process() -> int:
    """Returns the most resident memory that this process has had, in bytes."""
    status = Path("/proc/self/status").read_text()
    peak = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(peak.split()[1]) * 1024


def sample_of(family: Family) -> Encoded:
    shapes = family.encoded_shapes(SHAPE.latent(family.card))
    return Encoded(**{name: torch.randn(shape) for name, shape in shapes.items()})


def write_model(folder: Path) -> Path:
    """Writes a random checkpoint of Wan's class, with small encoders, in float32."""
    from diffusers import WanTransformer3DModel

    import scripts.trial  # noqa: F401 (brings the tests' helpers into reach)
    from tiny import save_tiny_wan  # isort: skip

    save_tiny_wan(folder)
    config = {**read_card(folder).config("transformer"), **TRANSFORMER}
    WanTransformer3DModel.from_config(config).save_pretrained(folder / "transformer")
    return folder


if __name__ == "__main__":
    sys.exit(main())
