"""Training state on disk, written whole; logs; and checkpoints packed for the way home from another machine.

python -m pretrain.checkpoints DIR FOLDER      # unpack what a run with --out DIR wrote
"""

from __future__ import annotations

import argparse
import io
import json
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from pretrain.optim import Ema

__all__ = ["Progress", "append_log", "join_pieces", "load_state", "save_state", "write_pieces"]

PIECE_BYTES = 15 * 2**20


@dataclass
class Progress:
    """How far a course has come: steps done and seconds spent."""

    step: int = 0
    spent: float = 0.0


def save_state(
    path: Path, progress: Progress, model: nn.Module, ema: Ema, optimizers: list[torch.optim.Optimizer]
) -> None:
    """Writes weights, average, optimiser state and progress in fp32; the old file stays until the new one is whole."""
    tensors: dict[str, Tensor] = {f"model.{k}": v for k, v in model.state_dict().items()}
    tensors |= {f"ema.{k}": v for k, v in ema.weights.items()}
    for index, optimizer in enumerate(optimizers):
        for key, values in optimizer.state_dict()["state"].items():
            tensors |= {f"optim.{index}.{key}.{name}": torch.as_tensor(value) for name, value in values.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    metadata = {"step": str(progress.step), "spent": repr(progress.spent)}
    save_file({k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}, temporary, metadata=metadata)
    temporary.replace(path)


def load_state(path: Path, model: nn.Module, ema: Ema, optimizers: list[torch.optim.Optimizer]) -> Progress:
    """Restores what :func:`save_state` wrote, if there is anything to restore."""
    if not path.exists():
        return Progress()
    device = next(model.parameters()).device
    with safe_open(path, "pt") as file:
        tensors = {key: file.get_tensor(key).to(device) for key in file.keys()}  # noqa: SIM118 (not a dict)
        metadata = file.metadata()
    model.load_state_dict({k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")})
    ema.weights = {k.removeprefix("ema."): v for k, v in tensors.items() if k.startswith("ema.")}
    for index, optimizer in enumerate(optimizers):
        states: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            if key.startswith(f"optim.{index}."):
                _, _, parameter, name = key.split(".")
                states.setdefault(int(parameter), {})[name] = value.cpu() if name == "step" else value
        optimizer.load_state_dict({"state": states, "param_groups": optimizer.state_dict()["param_groups"]})
    return Progress(int(metadata["step"]), float(metadata["spent"]))


def append_log(path: Path, **row: Any) -> None:
    """Adds one JSON line to a log and prints it, both at once."""
    line = json.dumps(row)
    print(line, flush=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(line + "\n")


def write_pieces(folder: Path, out: Path, logs: list[Path]) -> list[Path]:
    """Packs a checkpoint folder and logs into ``out`` as one archive, cut into pieces of less than 16 MiB."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        tar.add(folder, folder.name)
        for log in logs:
            tar.add(log, f"logs/{log.name}")
    data = archive.getvalue()
    out.mkdir(parents=True, exist_ok=True)
    pieces = []
    for index, start in enumerate(range(0, len(data), PIECE_BYTES)):
        pieces.append(out / f"checkpoint.tar.{index:02d}")
        pieces[-1].write_bytes(data[start : start + PIECE_BYTES])
    return pieces


def join_pieces(out: Path, folder: Path) -> None:
    """Unpacks what :func:`write_pieces` wrote into a folder."""
    data = b"".join(piece.read_bytes() for piece in sorted(out.glob("checkpoint.tar.*")))
    if not data:
        raise SystemExit(f"{out} has no checkpoint pieces.")
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        tar.extractall(folder, filter="data")


def argument_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    parser = argparse.ArgumentParser(description="Unpacks what a run with --out wrote.")
    parser.add_argument("pieces", type=Path, help="the folder given to --out")
    parser.add_argument("folder", type=Path, help="where checkpoint and logs go")
    return parser


if __name__ == "__main__":
    options = argument_parser().parse_args()
    join_pieces(options.pieces, options.folder)
