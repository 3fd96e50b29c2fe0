"""Several cards at one edit, each with a process of its own, as ``accelerate launch`` starts them.

The first process does the edit. The others wait, and join it in training and sampling: all then run the same function
with the same values. What they share is said in :func:`share_blocks` (memory) and :func:`split_tokens` (time).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from datetime import timedelta
from functools import cache
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from accelerate import PartialState
from diffusers import ContextParallelConfig
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard

from loraedit.errors import LoraEditError
from loraedit.runtime.ranks import processes

__all__ = ["add_up", "agreed", "assist", "dismiss", "share_blocks", "split_tokens", "together"]

Result = TypeVar("Result")

PATIENCE = timedelta(days=30)
"""How long a process waits for work."""


# ---- work ------------------------------------------------------------------------------------------------------------


def together(work: Callable[..., Result], *values: Any, **own: Any) -> Result:
    """Call a function in all processes; gives the result of this one.

    Args:
        values: for all; the others get copies.
        own: for this process alone; the others go by the function's defaults.
    """
    if processes() > 1:
        dist.broadcast_object_list([(work, values)], src=0, group=_orders())
    return work(*values, **own)


def assist() -> None:
    """Join in whatever the first process does together with this one, until it dismisses it."""
    while True:
        order: list[Any] = [None]
        dist.broadcast_object_list(order, src=0, group=_orders())
        if order[0] is None:
            return
        work, values = order[0]
        with suppress(LoraEditError):  # the first process has met it too, and says so
            work(*values)


def dismiss() -> None:
    """Let the others go."""
    dist.broadcast_object_list([None], src=0, group=_orders())


def agreed(value: float) -> float:
    """The first process's value, in all of them."""
    if processes() == 1:
        return value
    shared = torch.tensor([value], dtype=torch.float64)
    dist.broadcast(shared, src=0, group=_orders())
    return float(shared)


@cache
def _orders() -> Any:
    """The processes, as they are told what to do; joins them to each other."""
    PartialState(cpu=not torch.accelerator.is_available())
    return dist.new_group(backend="gloo", timeout=PATIENCE)


# ---- one model -------------------------------------------------------------------------------------------------------


def share_blocks(transformer: nn.Module, blocks: Iterable[nn.Module], device: torch.device) -> None:
    """Leave each process a part of the frozen weights of every block (FSDP2), in place; all else is whole, on a device.

    A block's weights come together while it computes. The LoRA is small, and is the same everywhere.
    """
    for block in blocks:
        kind = _main_kind(block)
        whole = {each for each in block.parameters() if each.requires_grad or each.ndim < 2 or each.dtype != kind}
        fully_shard(block, mesh=_mesh(device.type), ignored_params=whole)
    for tensor in (*transformer.parameters(), *transformer.buffers()):
        if not isinstance(tensor, dist.tensor.DTensor):
            tensor.data = tensor.data.to(device)


def split_tokens(transformer: Any, lengths: Iterable[int]) -> None:
    """Let each process compute a part of the tokens (diffusers' context parallel, by Ulysses), in place.

    Nothing is done if heads, or the tokens of any sequence, do not come out even, or without an accelerator, of which
    diffusers' own code makes sure: then all compute everything.

    Args:
        transformer: one with diffusers' plan of how to split it.
        lengths: of the sequences that it will see.
    """
    count, even = processes(), (transformer.config.num_attention_heads, *lengths)
    if count == 1 or not torch.accelerator.device_count() or any(length % count for length in even):
        return
    transformer.enable_parallelism(config=ContextParallelConfig(ulysses_degree=count))


def add_up(parameters: Iterable[nn.Parameter], transformer: Any) -> None:
    """Give the parameters the gradient of all tokens, in all processes alike."""
    if processes() == 1:
        return
    share = 1 if transformer._parallel_config is not None else processes()  # all have the whole of it, up to rounding
    for gradient in _gradients(parameters):
        dist.all_reduce(gradient)
        gradient /= share


def _gradients(parameters: Iterable[nn.Parameter]) -> Iterator[Tensor]:
    yield from (parameter.grad for parameter in parameters if parameter.grad is not None)


def _main_kind(block: nn.Module) -> torch.dtype:
    """The precision of most of a block's matrices; of floats, as FSDP takes no others."""
    sizes: dict[torch.dtype, int] = {}
    for each in block.parameters():
        if each.ndim >= 2 and not each.requires_grad and each.is_floating_point():
            sizes[each.dtype] = sizes.get(each.dtype, 0) + each.numel()
    return max(sizes, key=lambda kind: sizes[kind], default=torch.float32)


@cache
def _mesh(device: str) -> DeviceMesh:
    _orders()
    return init_device_mesh(device, (processes(),))
