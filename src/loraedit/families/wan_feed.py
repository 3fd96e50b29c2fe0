"""The feed-forward of Wan's blocks on a CPU, written out: of what is wide, nothing is saved for the gradient.

It runs some rows at a time, so that what lies between its two products stays in a core's own cache, and the gradient
computes it again.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from diffusers.models.activations import GELU
from diffusers.models.attention import FeedForward
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from loraedit.lora_layer import Adapted, LoraLinear

__all__ = ["feed"]

ROWS = 192
"""So many rows at a time."""
SLOPE = 2 * math.sqrt(2 / math.pi)
CUBIC = 0.044715 * SLOPE
"""GELU's approximation by a tanh is x s(x), s = sigmoid(SLOPE x + CUBIC x^3)."""


def feed(layers: FeedForward, x: Tensor) -> Tensor:
    """What :class:`FeedForward` gives of ``[B, L, D]``."""
    first, _, second = layers.net
    if not torch.is_grad_enabled():
        fed: Tensor = second(_activated(first, x))
        return fed
    parts = None
    if isinstance(first, GELU) and first.approximate == "tanh":
        parts = [each.parts(x) for each in (first.proj, second) if isinstance(each, LoraLinear)]
    if not parts or len(parts) < 2 or None in parts:
        again: Tensor = checkpoint(layers, x, use_reentrant=False)
        return again
    taught: Tensor = _Taught.apply(x, *parts[0], *parts[1])  # type: ignore[no-untyped-call, misc]
    return taught


def _activated(layer: GELU, x: Tensor) -> Tensor:
    """The first product and the activation; in bfloat16 as one step of oneDNN, whose GELU is fast."""
    proj = layer.proj
    if type(proj) is nn.Linear and proj.weight.dtype == x.dtype == torch.bfloat16 and torch.backends.mkldnn.enabled:
        fused: Tensor = torch.ops.mkldnn._linear_pointwise(x, proj.weight, proj.bias, "gelu", [], layer.approximate)
        return fused
    activated: Tensor = layer(x)
    return activated


class _Taught(torch.autograd.Function):
    """Two adapted layers with GELU between them."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *parts: Any) -> Tensor:
        first, second = Adapted(*parts[:5]), Adapted(*parts[5:])
        ctx.scales = first.scale, second.scale
        ctx.save_for_backward(x, *first[:4], *second[:4])
        fed = []
        for rows in x.flatten(0, -2).split(ROWS):
            hidden = first.of(rows)
            fed.append(second.of(_gate(hidden).mul_(hidden)))
        return torch.cat(fed).view(x.shape)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, *parts = ctx.saved_tensors
        first, second = Adapted(*parts[:4], ctx.scales[0]), Adapted(*parts[4:], ctx.scales[1])
        of_x, of_adapters = [], []
        for rows, gradient in zip(*(each.flatten(0, -2).split(ROWS) for each in (x, gradients[0])), strict=True):
            activated, slope = _gelu_and_slope(first.of(rows))
            of_hidden, *of_second = second.gradient(activated, gradient)
            assert of_hidden is not None
            of_rows, *of_first = first.gradient(rows, of_hidden.mul_(slope))
            of_x.append(of_rows)
            of_adapters.append((*of_first, *of_second))
        down, up, down_2, up_2 = (sum(each) for each in zip(*of_adapters, strict=True))
        return torch.cat(of_x).view(x.shape), None, None, down, up, None, None, None, down_2, up_2, None


def _gate(x: Tensor) -> Tensor:
    """s(x): GELU is x s(x)."""
    return (x * x).mul_(CUBIC).add_(SLOPE).mul_(x).sigmoid_()


def _gelu_and_slope(x: Tensor) -> tuple[Tensor, Tensor]:
    """x s and its derivative s + x s (1 - s) (SLOPE + 3 CUBIC x^2)."""
    gate = _gate(x)
    activated = x * gate
    bend = (x * x).mul_(3 * CUBIC).add_(SLOPE).mul_(activated)
    return activated, torch.addcmul(gate, 1 - gate, bend)
