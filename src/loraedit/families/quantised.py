"""Linear layers whose frozen weight stays quantised in memory and is converted back wherever it computes.

Everything is held in plain tensors, which hooks can move like any other, and nothing dequantised is saved for a
gradient. The arithmetic runs on fake tensors too, so plans measure these very layers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from loraedit.runtime.devices import computed_in

__all__ = [
    "GgufWeight",
    "Nf4Weight",
    "QuantisedLinear",
    "QuantisedWeight",
    "ScaledWeight",
    "empty_weight",
    "parameter_shapes",
    "quantise",
]

NF4_BLOCK = 64
"""Weights that share a factor in NF4."""
PART = 2**18
"""Weights that are quantised at a time, about: the intermediate values then fit into a cache."""


class QuantisedWeight(nn.Module):
    """A frozen weight ``[D', D]`` in fewer bits.

    Attributes:
        kind: ``fp8``, ``int8``, ``nf4``, or the name of a GGUF type, such as ``Q4_K``.
        shape: that of the weight.
    """

    kind: str
    shape: tuple[int, ...]

    def dequantised(self, dtype: torch.dtype) -> Tensor:
        """Returns the weight ``[D', D]`` in a precision, as a new tensor."""
        raise NotImplementedError


class ScaledWeight(QuantisedWeight):
    """Codes times factors: fp8 with at most one factor, as in ComfyUI's scaled fp8, or int8 with one for each row.

    Args:
        codes: float8 or int8, in the shape of the weight.
        scale: the factors, in a shape that broadcasts against the codes; None is 1.
    """

    def __init__(self, codes: Tensor, scale: Tensor | None = None) -> None:
        super().__init__()
        self.kind = "int8" if codes.dtype == torch.int8 else "fp8"
        self.shape = tuple(codes.shape)
        self.codes = _frozen(codes)
        # One row and one column at least: against a number, torch would round the factor to the precision of the codes.
        self.scale = None if scale is None else _frozen(scale.float().reshape(-1, *[1] * (codes.ndim - 1)))

    def dequantised(self, dtype: torch.dtype) -> Tensor:
        """See :class:`QuantisedWeight`. The product is rounded once."""
        weight = self.codes.to(dtype)
        return weight if self.scale is None else weight.mul_(self.scale)


class Nf4Weight(QuantisedWeight):
    """Four-bit codes for quantiles of a normal distribution, with a float32 factor for each 64 weights (bitsandbytes).

    Args:
        codes: uint8, two codes a byte.
        scale: the factors.
        shape: that of the weight.
    """

    kind = "nf4"

    def __init__(self, codes: Tensor, scale: Tensor, shape: Sequence[int]) -> None:
        import bitsandbytes  # noqa: F401 (registers its operators)

        super().__init__()
        self.codes, self.scale, self.shape = _frozen(codes), _frozen(scale), tuple(shape)

    def dequantised(self, dtype: torch.dtype) -> Tensor:
        """See :class:`QuantisedWeight`."""
        operator = torch.ops.bitsandbytes.dequantize_4bit  # of plain tensors, on every device
        weight: Tensor = operator(self.codes, self.scale, NF4_BLOCK, "nf4", self.shape, dtype)
        return weight


class GgufWeight(QuantisedWeight):
    """A weight in the blocks of a GGUF file.

    Args:
        codes: uint8 ``[D', bytes of a row]``.
        kind: the name of the GGUF type.
    """

    def __init__(self, codes: Tensor, kind: str) -> None:
        super().__init__()
        self._dequantise, self._block, self._size = _gguf_layout(kind)
        self.kind, self.codes = kind, _frozen(codes)
        self.shape = (codes.shape[0], codes.shape[1] // self._size * self._block)

    def dequantised(self, dtype: torch.dtype) -> Tensor:
        """See :class:`QuantisedWeight`. The arithmetic is float32 for float32, else float16, as in ComfyUI."""
        exact = torch.float32 if dtype == torch.float32 else torch.float16
        weight: Tensor = self._dequantise(self.codes.view(-1, self._size), self._block, self._size, dtype=exact)
        return weight.reshape(self.shape).to(dtype)


class QuantisedLinear(nn.Module):
    """A frozen linear layer with a quantised weight.

    It computes in the precision of autocast, or else in that of its input. Where blocks are compiled, the compiler
    decides what is saved for the gradient.

    Args:
        stored: the weight.
        bias: ``[D']``, frozen.
    """

    bias: nn.Parameter | None

    def __init__(self, stored: QuantisedWeight, bias: nn.Parameter | None) -> None:
        super().__init__()
        self.stored = stored
        self.out_features, self.in_features = stored.shape
        self.register_parameter("bias", bias)

    def parts(self, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
        """Returns weight and bias in a precision."""
        return self.stored.dequantised(dtype), None if self.bias is None else self.bias.to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Returns the output ``[..., D']`` for ``[..., D]``."""
        x = x.to(computed_in(x.device.type, x.dtype))
        if not (torch.is_grad_enabled() and x.requires_grad) or torch.compiler.is_compiling():
            return linear(x, *self.parts(x.dtype))
        result: Tensor = _Step.apply(x, self)  # type: ignore[no-untyped-call]
        return result

    def expanded(self, dtype: torch.dtype) -> nn.Linear:
        """Returns a plain layer with the weight in a precision."""
        plain = nn.Linear(self.in_features, self.out_features, device="meta")
        weight, bias = self.parts(dtype)
        plain.weight = _frozen(weight)
        plain.register_parameter("bias", None if bias is None else _frozen(bias))
        return plain

    def extra_repr(self) -> str:
        """See :class:`torch.nn.Module`."""
        return f"{self.in_features}, {self.out_features}, kind={self.stored.kind}"


class _Step(torch.autograd.Function):
    """A :class:`QuantisedLinear` for autograd: the gradient dequantises the weight again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: QuantisedLinear) -> Tensor:
        ctx.layer = layer
        return linear(x, *layer.parts(x.dtype))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        return gradient @ ctx.layer.stored.dequantised(gradient.dtype), None


def quantise(weight: Tensor, kind: str) -> QuantisedWeight:
    """Quantises a weight ``[D', D]`` as ``fp8``, ``int8`` or ``nf4``, a part at a time: it may be large."""
    held = empty_weight(weight.shape, kind, weight.device)
    if isinstance(held, Nf4Weight):
        _fill_nf4(held, weight)
    elif isinstance(held, ScaledWeight):
        _fill_scaled(held, weight)
    return held


def _fill_scaled(held: ScaledWeight, weight: Tensor) -> None:
    """Fills in codes and factors. The largest weight of a factor gets the largest code."""
    by_row = held.codes.dtype == torch.int8
    info = torch.iinfo(torch.int8) if by_row else torch.finfo(held.codes.dtype)
    largest = torch.maximum(weight.amax(1), -weight.amin(1)).float()  # weight.abs() would be a copy
    largest = largest if by_row else largest.amax(0, keepdim=True)
    factor = torch.where(largest == 0, 1.0, largest / info.max)[:, None]
    assert held.scale is not None
    held.scale.copy_(factor)
    for rows in _parts(weight):
        codes = (weight[rows].float() / (factor[rows] if by_row else factor)).clamp_(-info.max, info.max)
        held.codes[rows] = codes.round_() if by_row else codes  # assignment converts


def _fill_nf4(held: Nf4Weight, weight: Tensor) -> None:
    for rows in _parts(weight):
        start, part = rows.start * weight.shape[1], weight[rows].contiguous()
        codes, scale = torch.ops.bitsandbytes.quantize_4bit(part, NF4_BLOCK, "nf4", torch.uint8)
        held.codes[start // 2 : start // 2 + len(codes)] = codes
        held.scale[start // NF4_BLOCK : start // NF4_BLOCK + len(scale)] = scale


def _parts(weight: Tensor) -> Iterator[slice]:
    """Yields the rows of a part; its number of weights is a multiple of that of a block, except in the last part."""
    count = max(1, PART // (NF4_BLOCK * weight.shape[1])) * NF4_BLOCK
    for start in range(0, len(weight), count):
        yield slice(start, start + count)


def empty_weight(shape: Sequence[int], kind: str, device: torch.device) -> QuantisedWeight:
    """Returns a weight without contents, of any kind."""
    rows, count = shape[0], math.prod(shape)
    if kind == "fp8":
        return ScaledWeight(
            torch.empty(*shape, dtype=torch.float8_e4m3fn, device=device), torch.empty(1, device=device)
        )
    if kind == "int8":
        return ScaledWeight(torch.empty(*shape, dtype=torch.int8, device=device), torch.empty(rows, device=device))
    if kind == "nf4":
        codes = torch.empty(-(-count // 2), 1, dtype=torch.uint8, device=device)
        return Nf4Weight(codes, torch.empty(-(-count // NF4_BLOCK), device=device), shape)
    _, block, size = _gguf_layout(kind)
    return GgufWeight(torch.empty(rows, shape[1] // block * size, dtype=torch.uint8, device=device), kind)


def parameter_shapes(model: nn.Module) -> Mapping[str, tuple[int, ...]]:
    """Returns the shapes of a model's parameters by name, as if no weight was quantised."""
    return dict(_shapes(model))


def _shapes(model: nn.Module) -> Iterator[tuple[str, tuple[int, ...]]]:
    for path, module in model.named_modules():
        if isinstance(module, QuantisedWeight):
            yield f"{path.removesuffix('.stored')}.weight", module.shape
            continue
        for name, parameter in module.named_parameters(path, recurse=False):
            yield name, tuple(parameter.shape)


def _frozen(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor, requires_grad=False)


def _gguf_layout(kind: str) -> tuple[Any, int, int]:
    """Returns diffusers' function for a GGUF type, the weights of a block, and its bytes."""
    from diffusers.quantizers.gguf.utils import dequantize_functions
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    number = GGMLQuantizationType[kind]
    return dequantize_functions[number], *GGML_QUANT_SIZES[number]
