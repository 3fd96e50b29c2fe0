"""One edit on several GPUs, each with its own process, as ``accelerate launch`` starts them.

The first process carries out the edit. The others wait, and join it in training and sampling, where all call the same
function with the same values. They share memory (:func:`share_blocks`) and time (:func:`split_tokens`).
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
from loraedit.runtime.devices import move
from loraedit.runtime.ranks import processes

__all__ = ["add_up", "agreed", "assist", "dismiss", "share_blocks", "split_tokens", "together"]

Result = TypeVar("Result")

PATIENCE = timedelta(days=30)
"""The longest time that a process waits for work."""


# ---- work ------------------------------------------------------------------------------------------------------------


def together(work: Callable[..., Result], *values: Any, **own: Any) -> Result:
    """Calls a function in all processes, and returns the result of this one.

    Args:
        work: the function; it must be picklable.
        values: its arguments in all processes; the others get copies.
        own: its arguments in this process alone; the others use the function's defaults.
    """
    if processes() > 1:
        dist.broadcast_object_list([(work, values)], src=0, group=_work_group())
    return work(*values, **own)


def assist() -> None:
    """Joins the first process in everything that it calls with :func:`together`, until it calls :func:`dismiss`."""
    while True:
        message: list[Any] = [None]
        dist.broadcast_object_list(message, src=0, group=_work_group())
        if message[0] is None:
            return
        work, values = message[0]
        with suppress(LoraEditError):  # the first process has the same error and reports it
            work(*values)


def dismiss() -> None:
    """Ends :func:`assist` in the other processes."""
    dist.broadcast_object_list([None], src=0, group=_work_group())


def agreed(value: float) -> float:
    """Returns the first process's value in all processes."""
    if processes() == 1:
        return value
    shared = torch.tensor([value], dtype=torch.float64)
    dist.broadcast(shared, src=0, group=_work_group())
    return float(shared)


@cache
def _work_group() -> Any:
    """Connects the processes, and returns the group through which the first sends work to the others."""
    PartialState(cpu=not torch.accelerator.is_available())
    return dist.new_group(backend="gloo", timeout=PATIENCE)


# ---- one model -------------------------------------------------------------------------------------------------------


def share_blocks(transformer: nn.Module, blocks: Iterable[nn.Module], device: torch.device) -> None:
    """Leaves each process a part of the frozen weights of every block (FSDP2), in place.

    A block's weights are gathered while it computes. Everything else is whole on the device. The LoRA is small, and
    the same in every process.
    """
    for block in blocks:
        dtype = _main_dtype(block)
        whole = {p for p in block.parameters() if p.requires_grad or p.ndim < 2 or p.dtype != dtype}
        fully_shard(block, mesh=_mesh(device.type), ignored_params=whole)
    tensors = (*transformer.parameters(), *transformer.buffers())
    move((tensor for tensor in tensors if not isinstance(tensor, dist.tensor.DTensor)), device)


def split_tokens(transformer: Any, lengths: Iterable[int]) -> None:
    """Makes each process compute a part of the tokens (diffusers' context parallelism, by Ulysses), in place.

    If the number of heads or the length of any sequence is not divisible by the number of processes, every process
    computes all tokens. So it does without an accelerator, which diffusers' code requires.

    Args:
        transformer: a transformer with diffusers' plan of how to split it.
        lengths: the lengths of its future sequences.
    """
    count, divisible = processes(), (transformer.config.num_attention_heads, *lengths)
    if count == 1 or not torch.accelerator.device_count() or any(number % count for number in divisible):
        return
    transformer.enable_parallelism(config=ContextParallelConfig(ulysses_degree=count))


def add_up(parameters: Iterable[nn.Parameter], transformer: Any) -> None:
    """Sets the gradients of the parameters to those of all tokens, equal in all processes."""
    if processes() == 1:
        return
    # With context parallelism each process has the gradient of its tokens, otherwise the whole one.
    share = 1 if transformer._parallel_config is not None else processes()
    for gradient in _gradients(parameters):
        dist.all_reduce(gradient)
        gradient /= share


def _gradients(parameters: Iterable[nn.Parameter]) -> Iterator[Tensor]:
    yield from (parameter.grad for parameter in parameters if parameter.grad is not None)


def _main_dtype(block: nn.Module) -> torch.dtype:
    """Returns the dtype of most of a block's matrices. Only floats count, because FSDP takes no others."""
    sizes: dict[torch.dtype, int] = {}
    for parameter in block.parameters():
        if parameter.ndim >= 2 and not parameter.requires_grad and parameter.is_floating_point():
            sizes[parameter.dtype] = sizes.get(parameter.dtype, 0) + parameter.numel()
    return max(sizes, key=lambda dtype: sizes[dtype], default=torch.float32)


@cache
def _mesh(device: str) -> DeviceMesh:
    _work_group()
    return init_device_mesh(device, (processes(),))
