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

_ONEDNN: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
ROWS = 192
"""So many rows at a time."""
SLOPE = 2 * math.sqrt(2 / math.pi)
CUBIC = 0.044715 * SLOPE
"""GELU's approximation by a tanh is x s(x), s = sigmoid(SLOPE x + CUBIC x^3)."""


def feed(layers: FeedForward, x: Tensor) -> Tensor:
    """What :class:`FeedForward` gives of ``[B, L, D]``."""
    first, _, second = layers.net
    assert isinstance(first, GELU)
    fed: Tensor
    if not torch.is_grad_enabled():
        fed = second(_activated(first, x))
        return fed
    adapted = [each.parts(x) for each in (first.proj, second) if isinstance(each, LoraLinear)]
    parts = [part for each in adapted if each is not None for part in each]
    if len(parts) < 2 * len(Adapted._fields) or first.approximate != "tanh":
        fed = checkpoint(layers, x, use_reentrant=False)
    else:
        fed = _Taught.apply(x, *parts)  # type: ignore[no-untyped-call]
    return fed


def _activated(layer: GELU, x: Tensor) -> Tensor:
    """The first product and the activation; in bfloat16 as one step of oneDNN, whose GELU is fast."""
    proj = layer.proj
    activated: Tensor
    if type(proj) is nn.Linear and proj.weight.dtype == x.dtype == torch.bfloat16 and _ONEDNN:
        activated = torch.ops.mkldnn._linear_pointwise(x, proj.weight, proj.bias, "gelu", [], layer.approximate)
    else:
        activated = layer(x)
    return activated


class _Taught(torch.autograd.Function):
    """Two adapted layers with GELU between them."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *parts: Any) -> Tensor:
        first, second = Adapted(*parts[:5]), Adapted(*parts[5:])
        ctx.scales = first.scale, second.scale
        ctx.save_for_backward(x, *first[:4], *second[:4])
        fed = []
        for rows in torch.split(x.flatten(0, -2), ROWS):
            hidden = first.of(rows)
            fed.append(second.of(_gate(hidden).mul_(hidden)))
        return torch.cat(fed).view(x.shape)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, *saved = ctx.saved_tensors
        parts = [*saved[:4], ctx.scales[0], *saved[4:], ctx.scales[1]]
        first, second = Adapted(*parts[:5]), Adapted(*parts[5:])
        of_x, of_adapters = [], []
        for rows, gradient in zip(*(torch.split(each.flatten(0, -2), ROWS) for each in (x, gradients[0])), strict=True):
            activated, slope = _gelu_and_slope(first.of(rows))
            of_low, *of_second = second.taught(activated, gradient)
            of_hidden = second.passed_on(gradient, of_low).mul_(slope)
            of_low, *of_first = first.taught(rows, of_hidden)
            of_x.append(first.passed_on(of_hidden, of_low))
            of_adapters.append((*of_first, *of_second))
        down, up, down_2, up_2 = (torch.stack(each).sum(0) for each in zip(*of_adapters, strict=True))
        return torch.cat(of_x).view(x.shape), None, None, down, up, None, None, None, down_2, up_2, None


def _gate(x: Tensor) -> Tensor:
    """s(x): GELU is x s(x)."""
    return (x * x).mul_(CUBIC).add_(SLOPE).mul_(x).sigmoid_()


def _gelu_and_slope(x: Tensor) -> tuple[Tensor, Tensor]:
    """GELU, x s, and its derivative s + x s (1 - s) (SLOPE + 3 CUBIC x^2)."""
    gate = _gate(x)
    activated = x * gate
    bend = (x * x).mul_(3 * CUBIC).add_(SLOPE).mul_(activated)
    return activated, torch.addcmul(gate, 1 - gate, bend)
