"""Components of a checkpoint in host memory: each is read once, and every use gets a copy that shares its weights."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from loraedit.families.model_card import ModelCard

__all__ = ["ComponentRead", "Keep", "KeptWeights", "OnRead", "keeping_weights", "kept_bytes", "read_once"]


@dataclass(frozen=True)
class ComponentRead:
    """What was read from a checkpoint in one go.

    Attributes:
        names: the components.
        seconds: how long it took.
        size_bytes: the size of their weights in host memory.
    """

    names: tuple[str, ...]
    seconds: float
    size_bytes: int


OnRead = Callable[[ComponentRead], None]
"""Called when components have been read."""


Keep = Literal["within edits", "between edits", "never"]
"""Which memory keeps a component: that of any edit, only one that outlives an edit, or none."""


class KeptWeights:
    """The components that were read of the last checkpoint, for their next use.

    Args:
        between_edits: keep what further edits need as well, such as text encoders, which a single edit needs once.
    """

    def __init__(self, *, between_edits: bool = False) -> None:
        self._between_edits, self._checkpoint = between_edits, ""
        self._parts: dict[Any, tuple[Any, Any]] = {}

    def get(self, card: ModelCard, part: Any, variant: Any, read: Callable[[], Any], keep: Keep) -> Any:
        """Returns a component: a copy of the kept one, or a new one; see :func:`read_once`."""
        checkpoint = card.fingerprint()
        if checkpoint != self._checkpoint:
            self._parts.clear()
            self._checkpoint = checkpoint
        if self._parts.get(part, (None,))[0] != variant:
            self._parts.pop(part, None)  # frees the memory first
        if keep == "never" or (keep == "between edits" and not self._between_edits):
            self._parts.pop(part, None)
            return read()
        if part not in self._parts:
            self._parts[part] = variant, read()
        return _sharing_weights(self._parts[part][1])

    def size_bytes(self) -> int:
        """Returns the size of all kept components, in bytes."""
        storages = {
            tensor.untyped_storage()._cdata: tensor.untyped_storage().nbytes()
            for _, part in self._parts.values()
            for tensor in _tensors(part)
        }
        return sum(storages.values())


@dataclass(frozen=True)
class _Scope:
    kept: KeptWeights
    on_read: OnRead


_scope: ContextVar[_Scope | None] = ContextVar("_scope", default=None)


@contextmanager
def keeping_weights(on_read: OnRead = lambda _: None, kept: KeptWeights | None = None) -> Iterator[None]:
    """Keeps the components that are read inside.

    Args:
        on_read: called after every reading.
        kept: where they are kept; None keeps them until the end of the outermost of these contexts.
    """
    outer = _scope.get()
    token = _scope.set(_Scope(kept or (outer.kept if outer else KeptWeights()), on_read))
    try:
        yield
    finally:
        _scope.reset(token)


def read_once(card: ModelCard, part: Any, variant: Any, read: Callable[[], Any], keep: Keep) -> Any:
    """Returns a component, which is read once within :func:`keeping_weights`.

    Moving a copy, hooks, adapters and conversion to another precision do not affect the kept component. Its weights
    must not be changed in place.

    Args:
        card: the checkpoint.
        part: identifies the component, or the components that are read together.
        variant: everything else that the result of ``read`` depends on. A component is kept in one variant.
        read: reads a model, or a diffusers pipeline with some of its models.
        keep: whether it is kept for the next use.
    """
    scope = _scope.get()
    if scope is None:
        return read()

    def read_and_report() -> Any:
        start = time.monotonic()
        result = read()
        scope.on_read(_reading(result, part, time.monotonic() - start))
        return result

    with torch.inference_mode(False):  # tensors of that mode could not be used outside of it
        return scope.kept.get(card, part, variant, read_and_report, keep)


def kept_bytes() -> int:
    """Returns the size of all components that are kept now, in bytes."""
    scope = _scope.get()
    return 0 if scope is None else scope.kept.size_bytes()


def _models(part: Any) -> dict[str, nn.Module]:
    """Returns the models of a component: itself, without a name, or those of a pipeline."""
    if isinstance(part, nn.Module):
        return {"": part}
    return {name: each for name, each in part.components.items() if isinstance(each, nn.Module)}


def _tensors(part: Any) -> Iterator[Tensor]:
    for model in _models(part).values():
        yield from model.parameters()
        yield from model.buffers()


def _reading(result: Any, part: Any, seconds: float) -> ComponentRead:
    names = tuple(name or str(part) for name in _models(result))
    return ComponentRead(names, seconds, sum(tensor.nbytes for tensor in _tensors(result)))


def _sharing_weights(kept: Any) -> Any:
    """Copies a component without its weights: the copy has tensors of its own on the same memory."""
    memo: dict[int, Any] = {}
    for tensor in _tensors(kept):
        own = tensor.data
        memo[id(tensor)] = nn.Parameter(own, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else own
    return copy.deepcopy(kept, memo)
