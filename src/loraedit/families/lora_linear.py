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

from loraedit.families.quantised import QuantisedLinear
from loraedit.runtime.devices import computed_in

__all__ = ["LORA_LAYERS", "AdaptedLinear", "FrozenWithLora", "LoraLinear"]


class AdaptedLinear(NamedTuple):
    """Computes W x + b + s B A x and its gradients for rows ``[N, D]``.

    Attributes:
        weight: W ``[D', D]``, frozen, in the precision to compute in.
        bias: b ``[D']``, frozen.
        down: A ``[r, D]``, in the precision of W like B.
        up: B ``[D', r]``.
        scale: s.
    """

    weight: Tensor
    bias: Tensor | None
    down: Tensor
    up: Tensor
    scale: float

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


class FrozenWithLora(NamedTuple):
    """A frozen layer and the one adapter on it.

    Attributes:
        base: ``nn.Linear`` or :class:`QuantisedLinear`.
        down: A, see :class:`AdaptedLinear`.
        up: B.
        scale: s.
    """

    base: nn.Linear | QuantisedLinear
    down: Tensor
    up: Tensor
    scale: float

    def computed_in(self, dtype: torch.dtype) -> AdaptedLinear:
        """Returns the layer in a precision; a quantised weight is dequantised."""
        base, down, up = self.base, self.down.to(dtype), self.up.to(dtype)
        weight, bias = base.parts(dtype) if isinstance(base, QuantisedLinear) else (base.weight, base.bias)
        return AdaptedLinear(weight, bias, down, up, self.scale)


class LoraLinear(Linear):
    """Peft's layer, with one autograd step for frozen weights, plain or quantised, under one adapter.

    Peft's own code runs where weights are loaded by hooks, where there are several adapters, and in compiled blocks,
    which are fused anyway.
    """

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Returns the output of the layer with its adapters, ``[..., D']`` for ``[..., D]``."""
        layer = None if args or kwargs else self.single_adapter(x)
        if layer is None:
            self.cast_input_dtype_enabled = not torch.is_autocast_enabled(x.device.type)
            by_peft: Tensor = super().forward(x, *args, **kwargs)
            return by_peft
        result: Tensor = _Step.apply(x.to(computed_in(x.device.type, x.dtype)), *layer)  # type: ignore[no-untyped-call]
        return result

    def single_adapter(self, x: Tensor) -> FrozenWithLora | None:
        """Returns the layer with its adapter, or None where peft's own code must run for this input."""
        base: Any = self.base_layer
        quantised = isinstance(base, QuantisedLinear)
        plain = type(base) is nn.Linear and base.weight.dtype == computed_in(x.device.type, x.dtype)
        names = [name for name in self.active_adapters if name in self.lora_A]
        if not (plain or quantised) or hasattr(base, "_diffusers_hook") or len(names) != 1:
            return None
        if self.disable_adapters or self.merged or torch.compiler.is_compiling():
            return None
        down, up = (getattr(self, part)[names[0]].weight for part in ("lora_A", "lora_B"))
        return FrozenWithLora(base, down, up, self.scaling[names[0]])


class _Step(torch.autograd.Function):
    """:class:`FrozenWithLora` for autograd. The frozen weight is not saved: the gradient takes it from the layer."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, base: Any, down: Tensor, up: Tensor, scale: float) -> Tensor:
        ctx.base, ctx.scale = base, scale
        ctx.save_for_backward(x, down, up)
        output = FrozenWithLora(base, down, up, scale).computed_in(x.dtype).forward(x.flatten(0, -2))
        return output.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, down, up = ctx.saved_tensors
        layer = FrozenWithLora(ctx.base, down, up, ctx.scale).computed_in(x.dtype)
        gradient = gradients[0].flatten(0, -2)
        low_rank, of_down, of_up = layer.adapter_gradients(x.flatten(0, -2), gradient)
        of_x = layer.input_gradient(gradient, low_rank).view(x.shape) if ctx.needs_input_grad[0] else None
        return of_x, None, of_down, of_up, None


LORA_LAYERS: dict[type[nn.Module], type[nn.Module]] = {nn.Linear: LoraLinear, QuantisedLinear: LoraLinear}
"""The adapter class for each kind of layer, as peft takes it."""
