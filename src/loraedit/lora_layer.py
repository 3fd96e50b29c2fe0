"""A linear layer with an adapter as one step: faster than peft's own, and its input is saved once, as it came."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from peft.tuners.lora import Linear
from torch import Tensor, nn
from torch.nn.functional import linear

__all__ = ["LAYERS", "Adapted", "LoraLinear"]


class Adapted(NamedTuple):
    """W x + b + s B A x, and its gradient, as plain functions of rows ``[N, D]``.

    Attributes:
        weight, bias: frozen, in the precision that is computed in.
        down, up: A ``[r, D]`` and B ``[D', r]``, in whatever precision they are trained in.
        scale: s.
    """

    weight: Tensor
    bias: Tensor | None
    down: Tensor
    up: Tensor
    scale: float

    def of(self, x: Tensor) -> Tensor:
        """The layer's answer ``[N, D']``."""
        low = x @ self.down.to(x.dtype).mT
        return linear(x, self.weight, self.bias).addmm_(low, self.up.to(x.dtype).mT, alpha=self.scale)

    def gradient(self, x: Tensor, gradient: Tensor, wants_x: bool = True) -> tuple[Tensor | None, Tensor, Tensor]:
        """Of x, A and B by that of the answer; None for x unless it is wanted."""
        down = self.down.to(x.dtype)
        of_low = gradient @ (self.up * self.scale).to(x.dtype)
        of_up = (gradient.mT @ (x @ down.mT)).to(self.up.dtype) * self.scale
        of_down = (of_low.mT @ x).to(self.down.dtype)
        return (gradient @ self.weight).addmm_(of_low, down) if wants_x else None, of_down, of_up


class LoraLinear(Linear):  # type: ignore[misc]
    """Peft's layer; over plain frozen weights with one adapter, forwards and backwards are written out.

    Weights that are quantised or come through hooks, several adapters, and what is compiled (and so fused anyway) go
    peft's way.
    """

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """The layer with its adapters, ``[..., D']`` of ``[..., D]``."""
        parts = None if args or kwargs else self.parts(x)
        if parts is None:
            self.cast_input_dtype_enabled = not torch.is_autocast_enabled(x.device.type)
            given: Tensor = super().forward(x, *args, **kwargs)
            return given
        result: Tensor = _Step.apply(x.to(parts.weight.dtype), *parts)  # type: ignore[no-untyped-call]
        return result

    def parts(self, x: Tensor) -> Adapted | None:
        """What it computes of an input, if that is one adapter over a product in the weights' own precision."""
        base, kind = self.base_layer, x.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
        plain = type(base) is nn.Linear and not hasattr(base, "_diffusers_hook") and base.weight.dtype == dtype
        names = [name for name in self.active_adapters if name in self.lora_A]
        if not plain or len(names) != 1 or self.disable_adapters or self.merged or torch.compiler.is_compiling():
            return None
        (name,) = names
        down, up = self.lora_A[name].weight, self.lora_B[name].weight
        return Adapted(base.weight, base.bias, down, up, self.scaling[name])


class _Step(torch.autograd.Function):
    """:class:`Adapted` for autograd."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *parts: Any) -> Tensor:
        layer = Adapted(*parts)
        ctx.scale = layer.scale
        ctx.save_for_backward(x, *layer[:4])
        return layer.of(x.flatten(0, -2)).unflatten(0, x.shape[:-1])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, *parts = ctx.saved_tensors
        rows, gradient = x.flatten(0, -2), gradients[0].flatten(0, -2)
        of_x, *of_adapter = Adapted(*parts, ctx.scale).gradient(rows, gradient, ctx.needs_input_grad[0])
        return None if of_x is None else of_x.view(x.shape), None, None, *of_adapter, None


LAYERS: dict[type[nn.Module], type[nn.Module]] = {nn.Linear: LoraLinear}
"""Which layers get which adapters, as peft is told."""
