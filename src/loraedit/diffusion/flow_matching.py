"""Flow matching: noising, the velocity target and the loss. Pure functions on latents ``[c, f, h, w]``.

In the paper's symbols, x1 is the data, x0 the noise, and t the noise level in [0, 1] (1 = pure noise).
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["add_noise", "flow_matching_loss", "velocity_target"]


def add_noise(data: Tensor, noise: Tensor, time: Tensor | float) -> Tensor:
    """Returns x_t = (1 - t) x1 + t x0."""
    return (1 - time) * data + time * noise


def velocity_target(data: Tensor, noise: Tensor) -> Tensor:
    """Returns the velocity x0 - x1."""
    return noise - data


def flow_matching_loss(velocity: Tensor, data: Tensor, noise: Tensor, weight: Tensor | None = None) -> Tensor:
    """Returns the mean of || v_theta - (x0 - x1) ||^2 over the whole frame, the preserve zone included.

    Args:
        velocity: v_theta, the model's prediction.
        data: x1.
        noise: x0.
        weight: weight of each cell, broadcast against the latents; None weighs all cells alike. If all weights are 0,
            so is the loss.
    """
    error = torch.square(velocity.float() - velocity_target(data, noise).float())
    return error.mean() if weight is None else (error * weight).mean() / weight.mean().clamp_min(1e-8)
