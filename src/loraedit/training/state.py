"""Where a training run stands: losses, when to stop, LoRA and optimiser, in one safetensors file."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from loraedit.runtime.ranks import leads
from loraedit.storage.files import save_tensors, try_load_tensors

__all__ = ["TrainState", "load_state", "save_state"]

MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class TrainState:
    """What has been done.

    Attributes:
        losses: of every step.
        held_out: the held-out losses so far, if they are asked for.
        settled: after how many steps the LoRA had learnt what it can; 0 until then.
        seconds: spent on the steps, if that decides anything.
    """

    losses: list[float] = field(default_factory=list)
    held_out: list[float] = field(default_factory=list)
    settled: int = 0
    seconds: float = 0.0

    @property
    def step(self) -> int:
        """Steps done."""
        return len(self.losses)


def save_state(
    path: Path, state: TrainState, parameters: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer
) -> None:
    """Write the state, whole or not at all; of several processes the first one does."""
    if not leads():
        return
    lists = {"losses": state.losses, "held_out": state.held_out, "stop": [state.settled, state.seconds]}
    tensors: dict[str, Tensor] = {name: torch.tensor(each, dtype=torch.float64) for name, each in lists.items()}
    for name, parameter in parameters.items():
        tensors[f"{name}.weight"] = parameter.detach()
        for moment in MOMENTS:
            tensors[f"{name}.{moment}"] = optimizer.state[parameter][moment]
    save_tensors(path, tensors)


def load_state(path: Path, parameters: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer) -> TrainState:
    """Restore parameters and optimiser in place; a fresh state if there is no file.

    A damaged file is set aside (``.damaged``), and training starts anew.
    """
    names = [f"{name}.{part}" for name in parameters for part in ("weight", *MOMENTS)]
    tensors = try_load_tensors(path, ("losses", "held_out", "stop", *names))
    if tensors is None:
        return TrainState()
    losses = tensors["losses"].tolist()
    settled, seconds = tensors["stop"].tolist()
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(tensors[f"{name}.weight"])
            moments = {moment: tensors[f"{name}.{moment}"].to(parameter.device) for moment in MOMENTS}
            optimizer.state[parameter] = {"step": torch.tensor(float(len(losses))), **moments}
    return TrainState(losses, tensors["held_out"].tolist(), int(settled), seconds)
