"""Saves pretraining state often and atomically, so that a stop at any moment costs only minutes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from pretrain.optim import Ema

__all__ = ["append_log", "load_state", "save_state"]


def save_state(path: Path, step: int, model: nn.Module, ema: Ema, optimizers: list[torch.optim.Optimizer]) -> None:
    """Writes weights, average, optimiser state and step; the old file stays until the new one is complete."""
    tensors: dict[str, Tensor] = {f"model.{k}": v for k, v in model.state_dict().items()}
    tensors |= {f"ema.{k}": v for k, v in ema.weights.items()}
    for index, optimizer in enumerate(optimizers):
        for key, values in optimizer.state_dict()["state"].items():
            tensors |= {f"optim.{index}.{key}.{name}": torch.as_tensor(value) for name, value in values.items()}
    temporary = path.with_suffix(".tmp")
    save_file({k: v.contiguous().clone() for k, v in tensors.items()}, temporary, metadata={"step": str(step)})
    temporary.replace(path)


def load_state(path: Path, model: nn.Module, ema: Ema, optimizers: list[torch.optim.Optimizer]) -> int:
    """Restores what :func:`save_state` wrote and returns the step; 0 if there is nothing to restore."""
    if not path.exists():
        return 0
    with safe_open(path, "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
        step = int(file.metadata()["step"])
    model.load_state_dict({k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")})
    ema.weights = {k.removeprefix("ema."): v for k, v in tensors.items() if k.startswith("ema.")}
    for index, optimizer in enumerate(optimizers):
        states: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            if key.startswith(f"optim.{index}."):
                _, _, parameter, name = key.split(".")
                states.setdefault(int(parameter), {})[name] = value
        optimizer.load_state_dict({"state": states, "param_groups": optimizer.state_dict()["param_groups"]})
    return step


def append_log(path: Path, **row: Any) -> None:
    """Adds one JSON line to the log and prints it."""
    line = json.dumps(row)
    print(line, flush=True)
    with path.open("a") as file:
        file.write(line + "\n")
