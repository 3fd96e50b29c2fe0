"""A linear layer with its LoRA as one autograd step, for all families and devices.

It is faster than peft's layer and saves its input once, in the precision in which the input arrived. It lies below
:mod:`loraedit.lora`, which attaches it, because the CPU kernels of a family compute with its parts.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from peft.tuners.lora import Linear
from torch import Tensor, nn
from torch.nn.functional import linear

from loraedit.runtime.devices import computed_in

__all__ = ["LORA_LAYERS", "AdaptedLinear", "LoraLinear"]


class AdaptedLinear(NamedTuple):
    """Computes W x + b + s B A x and its gradients for rows ``[N, D]``.

    Attributes:
        weight: W ``[D', D]``, frozen, in the precision to compute in.
        bias: b ``[D']``, frozen.
        down: A ``[r, D]``. All methods but :meth:`in_one_precision` expect A and B in the precision of W.
        up: B ``[D', r]``.
        scale: s.
    """

    weight: Tensor
    bias: Tensor | None
    down: Tensor
    up: Tensor
    scale: float

    def in_one_precision(self) -> AdaptedLinear:
        """Returns the layer with A and B in the precision of W, whatever they are trained in."""
        return self._replace(down=self.down.to(self.weight.dtype), up=self.up.to(self.weight.dtype))

    def forward(self, x: Tensor) -> Tensor:
        """Returns the layer's output ``[N, D']``."""
        return linear(x, self.weight, self.bias).addmm_(x @ self.down.mT, self.up.mT, alpha=self.scale)

    def adapter_gradients(self, x: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the gradients of A x, A and B from the gradient of the output."""
        low_rank = gradient @ (self.up * self.scale)
        return low_rank, low_rank.mT @ x, (gradient.mT @ (x @ self.down.mT)).mul_(self.scale)

    def input_gradient(self, gradient: Tensor, low_rank: Tensor) -> Tensor:
        """Returns the gradient of x from those of the output and of A x."""
        return (gradient @ self.weight).addmm_(low_rank, self.down)


class LoraLinear(Linear):
    """Peft's layer, with one autograd step for plain frozen weights under one adapter.

    Peft's own code runs where weights are quantised or loaded by hooks, where there are several adapters, and in
    compiled blocks, which are fused anyway.
    """

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Returns the output of the layer with its adapters, ``[..., D']`` for ``[..., D]``."""
        layer = None if args or kwargs else self.single_adapter(x)
        if layer is None:
            self.cast_input_dtype_enabled = not torch.is_autocast_enabled(x.device.type)
            by_peft: Tensor = super().forward(x, *args, **kwargs)
            return by_peft
        result: Tensor = _Step.apply(x.to(layer.weight.dtype), *layer)  # type: ignore[no-untyped-call]
        return result

    def single_adapter(self, x: Tensor) -> AdaptedLinear | None:
        """Returns the layer as plain tensors, or None where peft's own code must run for this input."""
        base: Any = self.base_layer
        dtype = computed_in(x.device.type, x.dtype)
        plain = type(base) is nn.Linear and not hasattr(base, "_diffusers_hook") and base.weight.dtype == dtype
        names = [name for name in self.active_adapters if name in self.lora_A]
        if not plain or len(names) != 1 or self.disable_adapters or self.merged or torch.compiler.is_compiling():
            return None
        down, up = (getattr(self, part)[names[0]].weight for part in ("lora_A", "lora_B"))
        return AdaptedLinear(base.weight, base.bias, down, up, self.scaling[names[0]])


class _Step(torch.autograd.Function):
    """:class:`AdaptedLinear` for autograd."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *parts: Any) -> Tensor:
        *tensors, ctx.scale = parts
        ctx.save_for_backward(x, *tensors)
        output = AdaptedLinear(*parts).in_one_precision().forward(x.flatten(0, -2))
        return output.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, *tensors = ctx.saved_tensors
        parts = [*tensors, ctx.scale]
        layer, gradient = AdaptedLinear(*parts).in_one_precision(), gradients[0].flatten(0, -2)
        low_rank, down, up = layer.adapter_gradients(x.flatten(0, -2), gradient)
        of_x = layer.input_gradient(gradient, low_rank).view(x.shape) if ctx.needs_input_grad[0] else None
        return of_x, None, None, down, up, None


LORA_LAYERS: dict[type[nn.Module], type[nn.Module]] = {nn.Linear: LoraLinear}
"""The adapter class for each kind of layer, as peft takes it."""
