"""The feed-forward of Wan's blocks on a CPU, written out: of what is wide, nothing is saved for the gradient.

It runs some rows at a time, and the gradient computes what lies between its two products again. The activation and its
slope are computed in float32, in place, on tiles that stay in a core's own cache.
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

from loraedit.families.wan_cpu.lora_linear import Adapted, LoraLinear
from loraedit.families.wan_cpu.rows import by_rows

__all__ = ["feed"]

ROWS = 1024
"""So many rows at a time where a gradient is asked for."""
TILE = 2**16
"""So many values at a time between the two products: some such tables in float32 lie in a core's own cache."""
SLOPE = 2 * math.sqrt(2 / math.pi)
CUBIC = 0.044715 * SLOPE
"""GELU's approximation by a tanh is x s(x), s = sigmoid(SLOPE x + CUBIC x^3)."""


def feed(layers: FeedForward, x: Tensor) -> Tensor:
    """What :class:`FeedForward` gives of ``[B, L, D]``."""
    first, _, second = layers.net
    assert isinstance(first, GELU)
    fed: Tensor
    if not torch.is_grad_enabled():
        return by_rows(lambda rows: second(_activated(first, x[:, rows])), x.shape[1])
    adapted = [each.parts(x) for each in (first.proj, second) if isinstance(each, LoraLinear)]
    parts = [part for each in adapted if each is not None for part in each]
    if len(parts) < 2 * len(Adapted._fields) or first.approximate != "tanh":
        fed = checkpoint(layers, x, use_reentrant=False)
    else:
        fed = _Taught.apply(x, *parts)  # type: ignore[no-untyped-call]
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


class _Taught(torch.autograd.Function):
    """Two adapted layers with GELU between them."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *parts: Any) -> Tensor:
        ctx.scales = parts[4], parts[9]
        ctx.save_for_backward(x, *parts[:4], *parts[5:9])
        first, second = _layers(parts)
        fed = [second.of(_gelu(first.of(rows))) for rows in torch.split(x.flatten(0, -2), ROWS)]
        return _joined(fed).view(x.shape)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, *saved = ctx.saved_tensors
        first, second = _layers([*saved[:4], ctx.scales[0], *saved[4:], ctx.scales[1]])
        of_x, of_adapters = [], []
        for rows, gradient in zip(*(torch.split(each.flatten(0, -2), ROWS) for each in (x, gradients[0])), strict=True):
            slope = first.of(rows)
            activated = _gelu_into_slope(slope)
            of_low, *of_second = second.taught(activated, gradient)
            del activated
            of_hidden = second.passed_on(gradient, of_low).mul_(slope)
            del slope
            of_low, *of_first = first.taught(rows, of_hidden)
            of_x.append(first.passed_on(of_hidden, of_low))
            of_adapters.append((*of_first, *of_second))
        down, up, down_2, up_2 = (_summed(each) for each in zip(*of_adapters, strict=True))
        return _joined(of_x).view(x.shape), None, None, down, up, None, None, None, down_2, up_2, None


def _layers(parts: Sequence[Any]) -> tuple[Adapted, Adapted]:
    count = len(Adapted._fields)
    return Adapted(*parts[:count]).ready(), Adapted(*parts[count:]).ready()


def _joined(rows: Sequence[Tensor]) -> Tensor:
    return rows[0] if len(rows) == 1 else torch.cat(list(rows))


def _summed(gradients: Sequence[Tensor]) -> Tensor:
    return gradients[0] if len(gradients) == 1 else torch.stack(list(gradients)).sum(0)


def _gelu(x: Tensor) -> Tensor:
    """GELU, in place."""
    for tile in _tiles(x):
        _fill_gelu(tile)
    return x


def _gelu_into_slope(x: Tensor) -> Tensor:
    """GELU; in its place x leaves the derivative."""
    activated = torch.empty_like(x)
    for tile, out in zip(_tiles(x), _tiles(activated), strict=True):
        _fill_slope(tile, out)
    return activated


def _tiles(x: Tensor) -> tuple[Tensor, ...]:
    """``[N, D]``, some rows at a time."""
    return torch.split(x, max(1, TILE // x.shape[-1]))


def _exact(x: Tensor) -> Tensor:
    """A copy in float32 at least, whose passes are faster than those of bfloat16 while it lies in a cache."""
    return x.to(torch.promote_types(x.dtype, torch.float32), copy=True)


def _gate(x: Tensor, square: Tensor) -> Tensor:
    """s(x) by x and x^2: GELU is x s(x)."""
    return torch.rsub(square, SLOPE, alpha=-CUBIC).mul_(x).sigmoid_()


def _fill_gelu(x: Tensor) -> None:
    exact = _exact(x)
    x.copy_(_gate(exact, exact * exact).mul_(exact))


def _fill_slope(x: Tensor, out: Tensor) -> None:
    """GELU, x s, into out; into x its derivative s + x s (1 - s) (SLOPE + 3 CUBIC x^2)."""
    exact = _exact(x)
    square = exact * exact
    gate = _gate(exact, square)
    out.copy_(exact.mul_(gate))
    bend = square.mul_(3 * CUBIC).add_(SLOPE).mul_(exact)
    x.copy_(bend.addcmul_(bend, gate, value=-1).add_(gate))
