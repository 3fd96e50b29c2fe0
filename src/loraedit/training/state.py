"""The state of a training in one safetensors file: losses, when to stop, LoRA and optimiser."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from loraedit.runtime.ranks import leads
from loraedit.storage.files import save_tensors, try_load_tensors

__all__ = ["StateFile", "TrainState"]

MOMENTS = ("exp_avg", "exp_avg_sq")
SAVE_COST = 0.05
"""The largest share of the time that saving may take."""
SAVE_GAP_S = 5.0
"""Work of fewer seconds is not saved: repeating it is cheap."""


@dataclass(frozen=True)
class TrainState:
    """The progress of a training.

    Attributes:
        losses: the loss of every step.
        held_out: the held-out losses so far, if the settings ask for them.
        settled: the number of steps after which the LoRA stopped improving; 0 until then.
        seconds: the time spent on the steps, if the settings limit it.
    """

    losses: list[float] = field(default_factory=list)
    held_out: list[float] = field(default_factory=list)
    settled: int = 0
    seconds: float = 0.0

    @property
    def step(self) -> int:
        """The number of steps done."""
        return len(self.losses)


class StateFile:
    """Loads and saves the state of a training.

    Args:
        path: the file.
        parameters: the LoRA's parameters by name.
        optimizer: the optimiser of these parameters.
    """

    def __init__(self, path: Path, parameters: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer) -> None:
        self._path, self._parameters, self._optimizer = path, parameters, optimizer
        self._unsaved_s, self._cost_s = 0.0, 0.0

    def load(self) -> TrainState:
        """Restores parameters and optimiser in place. Without a file, returns a fresh state.

        A damaged file is renamed to ``.damaged``, and the training starts again.
        """
        names = [f"{name}.{part}" for name in self._parameters for part in ("weight", *MOMENTS)]
        tensors = try_load_tensors(self._path, ("losses", "held_out", "stop", *names))
        if tensors is None:
            return TrainState()
        losses = tensors["losses"].tolist()
        settled, seconds = tensors["stop"].tolist()
        with torch.no_grad():
            for name, parameter in self._parameters.items():
                parameter.copy_(tensors[f"{name}.weight"])
                moments = {moment: tensors[f"{name}.{moment}"].to(parameter.device) for moment in MOMENTS}
                self._optimizer.state[parameter] = {"step": torch.tensor(float(len(losses))), **moments}
        return TrainState(losses, tensors["held_out"].tolist(), int(settled), seconds)

    def save(self, state: TrainState) -> None:
        """Writes the whole state or nothing. Of several processes, the first writes."""
        if not leads():
            return
        start = time.monotonic()
        lists = {"losses": state.losses, "held_out": state.held_out, "stop": [state.settled, state.seconds]}
        tensors: dict[str, Tensor] = {name: torch.tensor(each, dtype=torch.float64) for name, each in lists.items()}
        for name, parameter in self._parameters.items() if state.step else ():  # before a step there are no moments
            tensors[f"{name}.weight"] = parameter.detach()
            for moment in MOMENTS:
                tensors[f"{name}.{moment}"] = self._optimizer.state[parameter][moment]
        save_tensors(self._path, tensors)
        self._unsaved_s, self._cost_s = 0.0, time.monotonic() - start

    def save_if_due(self, state: TrainState, seconds: float, last: bool) -> None:
        """Saves after the last step, and before it whenever much unsaved work has gathered.

        Args:
            state: the state after a step.
            seconds: the duration of this step.
            last: True after the last step.
        """
        self._unsaved_s += seconds
        if last or _worth_saving(self._unsaved_s, self._cost_s):
            self.save(state)


def _worth_saving(unsaved_s: float, cost_s: float) -> bool:
    """Returns True if unsaved work is worth the time that saving takes."""
    return unsaved_s > max(SAVE_GAP_S, cost_s / SAVE_COST)
