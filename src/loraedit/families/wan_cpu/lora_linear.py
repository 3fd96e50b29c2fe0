"""A linear layer with an adapter as one step: faster than peft's own, and its input is saved once, as it came."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from peft.tuners.lora import Linear
from torch import Tensor, nn
from torch.nn.functional import linear

from loraedit.runtime.devices import computed_in

__all__ = ["LAYERS", "Adapted", "LoraLinear"]


class Adapted(NamedTuple):
    """W x + b + s B A x, and its gradient, as plain functions of rows ``[N, D]``.

    Attributes:
        weight, bias: frozen, in the precision that is computed in.
        down, up: A ``[r, D]`` and B ``[D', r]``; what computes with them wants them :meth:`ready`.
        scale: s.
    """

    weight: Tensor
    bias: Tensor | None
    down: Tensor
    up: Tensor
    scale: float

    def ready(self) -> Adapted:
        """With A and B in the precision that is computed in, whatever they are trained in."""
        return self._replace(down=self.down.to(self.weight.dtype), up=self.up.to(self.weight.dtype))

    def of(self, x: Tensor) -> Tensor:
        """The layer's answer ``[N, D']``."""
        return linear(x, self.weight, self.bias).addmm_(x @ self.down.mT, self.up.mT, alpha=self.scale)

    def taught(self, x: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The gradients of A x, A and B by that of the answer."""
        of_low = gradient @ (self.up * self.scale)
        return of_low, of_low.mT @ x, (gradient.mT @ (x @ self.down.mT)).mul_(self.scale)

    def passed_on(self, gradient: Tensor, of_low: Tensor) -> Tensor:
        """The gradient of x by those of the answer and of A x."""
        return (gradient @ self.weight).addmm_(of_low, self.down)


class LoraLinear(Linear):
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
        base: Any = self.base_layer
        dtype = computed_in(x.device.type, x.dtype)
        plain = type(base) is nn.Linear and not hasattr(base, "_diffusers_hook") and base.weight.dtype == dtype
        names = [name for name in self.active_adapters if name in self.lora_A]
        if not plain or len(names) != 1 or self.disable_adapters or self.merged or torch.compiler.is_compiling():
            return None
        down, up = (getattr(self, part)[names[0]].weight for part in ("lora_A", "lora_B"))
        return Adapted(base.weight, base.bias, down, up, self.scaling[names[0]])


class _Step(torch.autograd.Function):
    """:class:`Adapted` for autograd."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *parts: Any) -> Tensor:
        *tensors, ctx.scale = parts
        ctx.save_for_backward(x, *tensors)
        answer = Adapted(*parts).ready().of(x.flatten(0, -2))
        return answer.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, *tensors = ctx.saved_tensors
        parts = [*tensors, ctx.scale]
        layer, gradient = Adapted(*parts).ready(), gradients[0].flatten(0, -2)
        of_low, of_down, of_up = layer.taught(x.flatten(0, -2), gradient)
        of_x = layer.passed_on(gradient, of_low).view(x.shape) if ctx.needs_input_grad[0] else None
        return of_x, None, None, of_down, of_up, None


LAYERS: dict[type[nn.Module], type[nn.Module]] = {nn.Linear: LoraLinear}
"""Which layers get which adapters, as peft is told."""
