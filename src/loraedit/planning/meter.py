"""Counts the floating-point operations of the code that runs under it, and the bytes that live at the same time."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as functional
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry
from torch.utils.weak import WeakIdKeyDictionary

from loraedit.runtime.host_memory import lies_on_host

__all__ = ["Meter", "gpu_attention"]

aten = torch.ops.aten


class Meter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A context that counts, for real and for fake tensors.

    It counts the operations of matrix products, convolutions and attention: forwards, backwards, and again where blocks
    are recomputed. A multiplication and its addition are two operations. Torch's own counter gives the same number, but
    it keeps gradients alive, so the peak would be wrong under it. The tensors of ``module``, ``others`` and, unless it
    ``counts_host``, buffers in host memory do not count as memory.

    Where a model reads the values of a fake tensor, a number is 0, a mask is True everywhere, and its complement is
    False everywhere.

    Attributes:
        flops: operations so far.
        live: bytes that exist now.
        peak: the most bytes that existed at one time.
    """

    def __init__(self, module: nn.Module, others: Iterable[Tensor] = (), *, counts_host: bool = False) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops = self.live = self.peak = 0
        own = (*module.parameters(), *module.buffers(), *others)
        self._sizes = {tensor.untyped_storage()._cdata: 0 for tensor in own}
        self._complements = WeakIdKeyDictionary()
        self._counts_host = counts_host
        for tensor in own:  # a new tensor may get the address of one that was freed
            weakref.finalize(tensor.untyped_storage(), self._forget, tensor.untyped_storage()._cdata)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs an operation and counts it."""
        formula = flop_registry.get(func._overloadpacket)
        if (
            formula is None and torch.is_inference_mode_enabled()
        ):  # in this mode composite operations arrive undecomposed
            with self:
                result = func.decompose(*args, **(kwargs or {}))
            if result is not NotImplemented:
                return result
        result = self._without_values(func, args)
        if result is None:
            result = func(*args, **(kwargs or {}))
        if func is aten.bitwise_not.default:
            self._complements[result] = True
        if formula is not None:
            self.flops += formula(*args, **(kwargs or {}), out_val=result)
        for value in tree_leaves(result):
            if isinstance(value, Tensor):
                self._count_memory(value)
        return result

    def _without_values(self, func: Any, args: Any) -> Any:
        """Returns the result of an operation that reads a fake tensor's values; None for all other operations."""
        if func is aten._local_scalar_dense.default and isinstance(args[0], FakeTensor) and args[0].constant is None:
            return int(args[0].dtype == torch.bool)  # 0 in numbers, True in masks: no check of the values fails
        if func is aten.index.Tensor and isinstance(args[0], FakeTensor) and args[1][0] is not None:
            mask = args[1][0]
            if mask.dtype == torch.bool:
                return args[0][:0] if mask in self._complements else args[0].clone()
        return None

    def _count_memory(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._sizes:
            return
        size = 0 if lies_on_host(storage) and not self._counts_host else storage.nbytes()
        self._sizes[key] = size
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._forget, key)

    def _forget(self, key: int) -> None:
        self.live -= self._sizes.pop(key, 0)


@contextmanager
def gpu_attention() -> Iterator[None]:
    """Lets attention on fake tensors run the kernels of a GPU, which never store the matrix of scores."""
    usual = functional.scaled_dot_product_attention

    def fused(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        if enable_gqa:
            shared = query.shape[1] // key.shape[1]
            key, value = key.repeat_interleave(shared, 1), value.repeat_interleave(shared, 1)
        if attn_mask is None and query.dtype != torch.float32:
            kernel = torch.ops.aten._scaled_dot_product_flash_attention
            return kernel(query, key, value, dropout_p, is_causal, False, scale=scale)[0]  # type: ignore[no-any-return]
        if attn_mask is not None:
            if attn_mask.dtype == torch.bool:
                attn_mask = torch.zeros_like(attn_mask, dtype=query.dtype)
            attn_mask = attn_mask.expand(*query.shape[:3], key.shape[2])
        kernel = torch.ops.aten._scaled_dot_product_efficient_attention
        wants = query.requires_grad or key.requires_grad or value.requires_grad
        return kernel(query, key, value, attn_mask, wants, dropout_p, is_causal, scale=scale)[0]  # type: ignore[no-any-return]

    functional.scaled_dot_product_attention = fused
    try:
        yield
    finally:
        functional.scaled_dot_product_attention = usual
