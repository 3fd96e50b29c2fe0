"""The feed-forward layers of Wan's blocks on a CPU, without saving any wide tensor for the gradient.

They run over a few rows at a time, and the gradient recomputes everything between the two matrix products. The
activation and its derivative are computed in float32, in place, on tiles that fit into the cache of a core.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from diffusers.models.activations import GELU
from diffusers.models.attention import FeedForward
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from loraedit.families.lora_linear import FrozenWithLora, LoraLinear
from loraedit.families.wan.cpu.rows import by_rows
from loraedit.runtime.devices import computed_in

__all__ = ["feed_forward"]

ROWS = 1024
"""Rows at a time where a gradient is needed."""
TILE = 2**16
"""Values at a time between the two products: a few tiles of this size in float32 fit into the cache of a core."""
SLOPE = 2 * math.sqrt(2 / math.pi)
CUBIC = 0.044715 * SLOPE
"""The tanh approximation of GELU is x s(x) with s = sigmoid(SLOPE x + CUBIC x^3)."""


def feed_forward(layers: FeedForward, x: Tensor) -> Tensor:
    """Computes :meth:`FeedForward.forward` of ``[B, L, D]``."""
    first, _, second = layers.net
    assert isinstance(first, GELU)
    fed: Tensor
    if not torch.is_grad_enabled():
        return by_rows(lambda rows: second(_activated(first, x[:, rows])), x.shape[1])
    adapted = [layer.single_adapter(x) for layer in (first.proj, second) if isinstance(layer, LoraLinear)]
    parts = [part for layer in adapted if layer is not None for part in layer]
    if len(parts) < 2 * len(FrozenWithLora._fields) or first.approximate != "tanh":
        fed = checkpoint(layers, x, use_reentrant=False)
    else:
        fed = _AdaptedFeedForward.apply(x.to(computed_in(x.device.type, x.dtype)), *parts)  # type: ignore[no-untyped-call]
    return fed


def _activated(layer: GELU, x: Tensor) -> Tensor:
    """Computes the first product and the activation; in bfloat16 as one step of oneDNN, where this CPU has it."""
    proj = layer.proj
    fused = type(proj) is nn.Linear and proj.weight.dtype == x.dtype == torch.bfloat16 and _fuses_gelu()
    activated: Tensor = _fused_gelu(x, proj.weight, proj.bias, layer.approximate) if fused else layer(x)
    return activated


def _fused_gelu(x: Tensor, weight: Tensor, bias: Tensor | None, approximate: str) -> Tensor:
    fused: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "gelu", [], approximate)
    return fused


@cache
def _fuses_gelu() -> bool:
    """Returns whether oneDNN has the fused step in bfloat16 here.

    torch has no public query that knows what oneDNN may use (a CPU without AVX-512, ``ONEDNN_MAX_CPU_ISA``, a build
    without oneDNN), so the step is tried once on a tiny input.
    """
    try:
        square = torch.ones(2, 2, dtype=torch.bfloat16)
        _fused_gelu(square, square, None, "tanh")
    except (AttributeError, NotImplementedError, RuntimeError):
        return False
    return True


class _AdaptedFeedForward(torch.autograd.Function):
    """Two adapted layers with GELU between them, and the gradients of the input and of both adapters."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *parts: Any) -> Tensor:
        ctx.bases, ctx.scales = (parts[0], parts[4]), (parts[3], parts[7])
        ctx.save_for_backward(x, *parts[1:3], *parts[5:7])
        first, second = (FrozenWithLora(*layer).computed_in(x.dtype) for layer in (parts[:4], parts[4:]))
        fed = [second.forward(_gelu(first.forward(rows))) for rows in torch.split(x.flatten(0, -2), ROWS)]
        return _joined(fed).view(x.shape)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, *saved = ctx.saved_tensors
        adapters = zip(ctx.bases, saved[::2], saved[1::2], ctx.scales, strict=True)
        first, second = (FrozenWithLora(*layer).computed_in(x.dtype) for layer in adapters)
        x_gradients, adapter_gradients = [], []
        pieces = (torch.split(values.flatten(0, -2), ROWS) for values in (x, gradients[0]))
        for rows, gradient in zip(*pieces, strict=True):
            slope = first.forward(rows)
            activated = _gelu_into_slope(slope)
            low_rank, *second_gradients = second.adapter_gradients(activated, gradient)
            del activated
            hidden_gradient = second.input_gradient(gradient, low_rank).mul_(slope)
            del slope
            low_rank, *first_gradients = first.adapter_gradients(rows, hidden_gradient)
            x_gradients.append(first.input_gradient(hidden_gradient, low_rank))
            adapter_gradients.append((*first_gradients, *second_gradients))
        down, up, down_2, up_2 = (_summed(parts) for parts in zip(*adapter_gradients, strict=True))
        return _joined(x_gradients).view(x.shape), None, down, up, None, None, down_2, up_2, None


def _joined(rows: Sequence[Tensor]) -> Tensor:
    return rows[0] if len(rows) == 1 else torch.cat(list(rows))


def _summed(gradients: Sequence[Tensor]) -> Tensor:
    return gradients[0] if len(gradients) == 1 else torch.stack(list(gradients)).sum(0)


def _gelu(x: Tensor) -> Tensor:
    """Computes GELU in place."""
    for tile in _tiles(x):
        _fill_gelu(tile)
    return x


def _gelu_into_slope(x: Tensor) -> Tensor:
    """Returns GELU(x) and overwrites x with the derivative."""
    activated = torch.empty_like(x)
    for tile, out in zip(_tiles(x), _tiles(activated), strict=True):
        _fill_slope(tile, out)
    return activated


def _tiles(x: Tensor) -> tuple[Tensor, ...]:
    """Splits ``[N, D]`` into views of a few rows."""
    return torch.split(x, max(1, TILE // x.shape[-1]))


def _exact(x: Tensor) -> Tensor:
    """Copies to float32 or better; while the copy is in a cache, passes over it are faster than over bfloat16."""
    return x.to(torch.promote_types(x.dtype, torch.float32), copy=True)


def _gate(x: Tensor, square: Tensor) -> Tensor:
    """Computes s(x) from x and x^2; GELU is x s(x)."""
    return torch.rsub(square, SLOPE, alpha=-CUBIC).mul_(x).sigmoid_()


def _fill_gelu(x: Tensor) -> None:
    exact = _exact(x)
    x.copy_(_gate(exact, exact * exact).mul_(exact))


def _fill_slope(x: Tensor, out: Tensor) -> None:
    """Writes GELU, x s, into ``out``, and its derivative s + x s (1 - s) (SLOPE + 3 CUBIC x^2) into x."""
    exact = _exact(x)
    square = exact * exact
    gate = _gate(exact, square)
    out.copy_(exact.mul_(gate))
    bend = square.mul_(3 * CUBIC).add_(SLOPE).mul_(exact)
    x.copy_(bend.addcmul_(bend, gate, value=-1).add_(gate))
