"""Trains an embedded model from nothing, or trains one further; every stage resumes where it was stopped.

python -m pretrain                                             # make the shipped model again
python -m pretrain --stage transformer --start src/loraedit/nano --preset nano-long
python -m pretrain --device cuda --minutes 8 --preset nano2-8m --compile --out DIR
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan

from loraedit.cli.progress import quiet_libraries
from loraedit.runtime.devices import find_device
from loraedit.storage.files import write_json
from pretrain.assemble import SHIPPED, assemble, ship
from pretrain.checkpoints import write_pieces
from pretrain.clips import Source
from pretrain.config import PRESETS, Preset, changed
from pretrain.footage import footage, measure
from pretrain.gate import run_gate
from pretrain.loop import Stopped
from pretrain.prior import train_prior
from pretrain.schedule import Budget
from pretrain.transformer import train_transformer
from pretrain.vae import train_vae

STAGES = ("vae", "transformer", "prior", "gate")
SHARES = {"vae": 0.25, "transformer": 0.5, "prior": 0.13, "gate": 0.12}
"""How a time budget is split over all stages."""


@dataclass(frozen=True)
class Session:
    """One call: what is trained, on what, from where, and until when."""

    preset: Preset
    device: torch.device
    work: Path
    start: Path | None
    minutes: float | None
    compiled: bool
    ends: float
    """The time on ``time.monotonic`` at which a time budget is over."""

    @property
    def checkpoint(self) -> Path:
        return self.work / "checkpoint"

    def budget(self, stage: str, stages: tuple[str, ...], steps: int) -> Budget:
        """Returns a stage's part of the time that is left to the stages from it on, or its steps."""
        if self.minutes is None:
            return Budget(steps)
        later = stages[stages.index(stage) :]
        left = max(0.0, self.ends - time.monotonic())
        return Budget(steps, left * SHARES[stage] / sum(SHARES[name] for name in later))


def run_stage(session: Session, source: Source, stage: str, stages: tuple[str, ...]) -> None:
    """Runs one stage; the checkpoint folder is up to date after those that train the model."""
    preset, work, start = session.preset, session.work, session.start
    steps = {"vae": preset.vae_plan.steps, "transformer": preset.transformer_plan.steps, "prior": preset.prior.steps}
    budget = session.budget(stage, stages, steps.get(stage, 1))
    if stage == "vae":
        train_vae(preset, source, work, budget, start)
    elif stage == "transformer":
        train_transformer(preset, source, work, budget, start, session.compiled)
        assemble(preset, work, start)
    else:
        if not session.checkpoint.is_dir():
            assemble(preset, work, start)
        if stage == "prior":
            train_prior(session.checkpoint, source, work / "prior", preset.prior, budget)
        else:
            over = lambda: session.minutes is not None and time.monotonic() > session.ends - 5  # noqa: E731
            run_gate(session.checkpoint, preset.gate, work / "gate.jsonl", str(session.device), over)


def finish(session: Session, out: Path | None, to: Path | None) -> None:
    """Writes the checkpoint to where it is wanted."""
    if to is not None:
        if footage():
            vae = AutoencoderKLWan.from_pretrained(session.checkpoint / "vae", dtype=torch.float32)
            source = Source.open(torch.device("cpu"), session.work / "photos.jpg")
            write_json(session.work / "footage.json", measure(vae, source))
        ship(session.preset, session.work, to)
    if out is not None:
        for piece in write_pieces(session.checkpoint, out, sorted(session.work.rglob("*.jsonl"))):
            print(f"{piece}: {piece.stat().st_size:,} bytes", flush=True)


def argument_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m pretrain", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", choices=tuple(PRESETS), default="nano", help="the model and its training")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="e.g. transformer_plan.peak=1e-3"
    )
    parser.add_argument("--stage", choices=(*STAGES, "assemble", "all"), default="all")
    parser.add_argument(
        "--minutes", type=float, help="wall-clock budget, split over the stages; default: the preset's steps"
    )
    parser.add_argument("--device", help="cpu, cuda, ...; default: the best there is")
    parser.add_argument("--work", type=Path, default=Path(".cache/pretrain"), help="state, logs and the checkpoint")
    parser.add_argument("--start", type=Path, help="a checkpoint to train further, such as src/loraedit/nano")
    parser.add_argument("--photos", type=Path, help="a file of python -m pretrain.photos; default: WORK/photos.jpg")
    parser.add_argument("--compile", action="store_true", help="compile the transformer's blocks")
    parser.add_argument("--out", type=Path, help="write the checkpoint there, packed into pieces of less than 16 MiB")
    parser.add_argument(
        "--ship", type=Path, nargs="?", const=SHIPPED, help="put the checkpoint there, with its figures"
    )
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Runs the stages; returns the exit status."""
    options = argument_parser().parse_args(arguments)
    quiet_libraries()
    preset, device = changed(PRESETS[options.preset], options.set), find_device(options.device)
    options.work.mkdir(parents=True, exist_ok=True)
    (options.work / "config.json").write_text(preset.as_json())
    ends = time.monotonic() + 60 * (options.minutes or 0)
    session = Session(preset, device, options.work, options.start, options.minutes, options.compile, ends)
    source = Source.open(device, options.photos or options.work / "photos.jpg")
    stages = STAGES if options.stage == "all" else (options.stage,)
    try:
        for stage in stages:
            if stage == "assemble":
                assemble(preset, options.work, options.start)
            else:
                run_stage(session, source, stage, stages)
        finish(session, options.out, options.ship)
    except Stopped:
        print("Stopped; the same command continues.", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
