"""Flow matching: noising, the velocity target and the loss. Pure functions on latents ``[c, f, h, w]``.

In the paper's symbols x1 is the data, x0 the noise, t the noise level in [0, 1] (1 = pure noise).
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["add_noise", "flow_matching_loss", "velocity_target"]


def add_noise(data: Tensor, noise: Tensor, time: Tensor | float) -> Tensor:
    """x_t = (1 - t) x1 + t x0."""
    return (1 - time) * data + time * noise


def velocity_target(data: Tensor, noise: Tensor) -> Tensor:
    """V = x0 - x1."""
    return noise - data


def flow_matching_loss(velocity: Tensor, data: Tensor, noise: Tensor, weight: Tensor | None = None) -> Tensor:
    """The mean over the whole frame, kept region included, of || v_theta - (x0 - x1) ||^2.

    Args:
        weight: how much each cell counts, broadcast against the latents; None is alike everywhere. Where no cell
            counts, the loss is 0.
    """
    error = torch.square(velocity.float() - velocity_target(data, noise).float())
    return error.mean() if weight is None else (error * weight).mean() / weight.mean().clamp_min(1e-8)
