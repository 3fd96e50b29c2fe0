"""Implements the optimiser of both pretrainings: Muon on matrices and filters, AdamW on the rest.

Muon (Keller Jordan, 2024) orthogonalises the momentum of a weight matrix by a Newton-Schulz iteration. Filters are
taken as matrices ``[out, in * kernel]``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Ema", "build_optimizers", "set_learning_rate"]


def orthogonalise(matrices: Tensor, steps: int = 5) -> Tensor:
    """Approximates the nearest semi-orthogonal matrices of ``[N, rows, columns]``: singular values come close to 1."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = (matrices / (matrices.norm(dim=(1, 2), keepdim=True) + 1e-7)).bfloat16()
    transposed = x.shape[1] > x.shape[2]
    x = x.mT if transposed else x
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.mT if transposed else x).float()


class Muon(torch.optim.Optimizer):
    """Steps along the orthogonalised momentum, scaled to the root mean square of an AdamW update (0.2)."""

    def __init__(self, params: list[Tensor], lr: float, momentum: float = 0.95, weight_decay: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]  # noqa: ARG002 (torch's signature)
        """Updates every parameter that has a gradient; matrices of one shape form one batch."""
        for group in self.param_groups:
            shapes: dict[torch.Size, list[Tensor]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    shapes.setdefault(parameter.flatten(1).shape, []).append(parameter)
            for shape, parameters in shapes.items():
                updates = orthogonalise(torch.stack([self._momentum(p, group["momentum"]) for p in parameters]))
                for parameter, update in zip(parameters, updates, strict=True):
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    parameter.add_(update.view_as(parameter), alpha=-group["lr"] * 0.2 * max(shape) ** 0.5)

    def _momentum(self, parameter: Tensor, momentum: float) -> Tensor:
        """Returns Nesterov's look-ahead gradient as a matrix."""
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        average = state["momentum"].lerp_(parameter.grad, 1 - momentum)
        return parameter.grad.lerp(average, momentum).flatten(1)


def build_optimizers(model: nn.Module, lr: float, weight_decay: float) -> list[torch.optim.Optimizer]:
    """Builds Muon for inner matrices and filters, and AdamW for embeddings, norms, biases and the last layer."""
    matrices, rest = [], []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        inner = parameter.ndim >= 2 and parameter.flatten(1).shape[1] > 1
        edge = any(word in name for word in ("shared", "embed", "gamma", "modulation", "table", "conv_out", "proj_out"))
        (matrices if inner and not edge else rest).append(parameter)
    return [Muon(matrices, lr, weight_decay=weight_decay), torch.optim.AdamW(rest, lr, (0.9, 0.98), weight_decay=0.0)]


def set_learning_rate(optimizers: list[torch.optim.Optimizer], lr: float) -> None:
    """Sets one rate for all parameters."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = lr


class Ema:
    """Keeps an exponential moving average of the weights; its horizon grows with the step to ``1 / (1 - decay)``."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.weights = {name: value.detach().clone() for name, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Moves the average towards the model's present weights."""
        decay = min(self.decay, (1 + step) / (10 + step))
        state = model.state_dict()
        torch._foreach_lerp_([self.weights[name] for name in state], list(state.values()), 1 - decay)
