"""Where a training run stands: step, losses, LoRA and optimiser, in one safetensors file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from loraedit.errors import CacheError
from loraedit.files import load_tensors, save_tensors

__all__ = ["TrainState", "load_state", "save_state"]

MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class TrainState:
    """Steps done, and the loss of each."""

    step: int
    losses: list[float]


def save_state(
    path: Path, state: TrainState, parameters: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer
) -> None:
    """Write the state, whole or not at all."""
    tensors: dict[str, Tensor] = {"losses": torch.tensor(state.losses, dtype=torch.float64)}
    for name, parameter in parameters.items():
        tensors[f"{name}.weight"] = parameter.detach()
        for moment in MOMENTS:
            tensors[f"{name}.{moment}"] = optimizer.state[parameter][moment]
    save_tensors(path, tensors, {"step": state.step})


def load_state(path: Path, parameters: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer) -> TrainState:
    """Restore parameters and optimiser in place; a fresh state if there is no file.

    A damaged file is set aside (``.damaged``), and training starts anew.
    """
    if not path.exists():
        return TrainState(0, [])
    try:
        tensors, metadata = load_tensors(path)
        step = int(metadata["step"])
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(tensors[f"{name}.weight"])
                moments = {moment: tensors[f"{name}.{moment}"].to(parameter.device) for moment in MOMENTS}
                optimizer.state[parameter] = {"step": torch.tensor(float(step)), **moments}
    except (CacheError, KeyError, ValueError, RuntimeError):
        path.replace(path.with_suffix(".damaged"))
        raise CacheError(
            f"The checkpoint '{path}' was damaged and has been set aside. Run the same command again to start anew."
        ) from None
    return TrainState(step, tensors["losses"].tolist())
