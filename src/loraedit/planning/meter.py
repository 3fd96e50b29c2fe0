"""Counts what runs under it: floating-point operations, and the bytes that live at the same time."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
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

__all__ = ["Meter", "card_attention"]

aten = torch.ops.aten


class Meter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A context that counts, for real tensors and for fake ones alike.

    Operations are those of matrix products, convolutions and attention, forwards, backwards and again where blocks are
    recomputed; a multiplication and its addition are two. Torch's own counter says the same, but it keeps gradients
    alive, so that the peak would be wrong under it. The tensors of ``module`` do not count as memory.

    Where a model asks a fake tensor for its values, a number is 0, a mask holds everywhere, and its complement nowhere.

    Attributes:
        flops: operations so far.
        live: bytes that are there now.
        peak: the most there have been.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops = self.live = self.peak = 0
        own = (*module.parameters(), *module.buffers())
        self._sizes = {tensor.untyped_storage()._cdata: 0 for tensor in own}
        self._on_host = False
        self._complements = WeakIdKeyDictionary()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and count it."""
        formula = flop_registry.get(func._overloadpacket)
        if formula is None and torch.is_inference_mode_enabled():  # there, what is made of other operations comes whole
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
                self._see(value)
        return result

    def _without_values(self, func: Any, args: Any) -> Any:
        """What an operation gives that goes by a fake tensor's values; None for all others."""
        if func is aten._local_scalar_dense.default and isinstance(args[0], FakeTensor) and args[0].constant is None:
            return 0
        if func is aten.index.Tensor and isinstance(args[0], FakeTensor) and args[1][0] is not None:
            mask = args[1][0]
            if mask.dtype == torch.bool:
                return args[0][:0] if mask in self._complements else args[0].clone()
        return None

    @contextmanager
    def checkpoints_on_host(self) -> Iterator[None]:
        """Within it what is saved for gradients lies in the host's memory, and is copied back when it is needed."""

        def pack(tensor: Tensor) -> Tensor:
            self._on_host = True
            try:
                return tensor.clone()
            finally:
                self._on_host = False

        with torch.autograd.graph.saved_tensors_hooks(pack, Tensor.clone):
            yield

    def _see(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._sizes:
            return
        size = 0 if self._on_host else storage.nbytes()
        self._sizes[key] = size
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._forget, key)

    def _forget(self, key: int) -> None:
        self.live -= self._sizes.pop(key, 0)


@contextmanager
def card_attention() -> Iterator[None]:
    """Within it attention runs the kernels of a graphics card, which keep no table of scores; on fake tensors only."""
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
