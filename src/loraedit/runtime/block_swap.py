"""Keeps the frozen weights of some blocks in host memory, and brings each to the device while it computes.

The device holds two slots, each as large as the largest swapped block. While the block in one slot computes, the next
one is copied into the other: the following block in a forward pass, the preceding one in a backward pass. A block needs
its weights in the backward pass too, when it is computed again for its gradients.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import compress
from typing import Any, NamedTuple

import torch
from diffusers.hooks.hooks import HookRegistry, ModelHook
from torch import Tensor, nn

from loraedit.runtime.devices import move
from loraedit.runtime.host_memory import STREAMING, host_buffer

__all__ = ["BlockSwap", "Copies", "pack_blocks", "swap_blocks", "swapped_buffers", "swapped_indices"]

SLOTS = 2
ALIGNMENT = 256
"""Bytes to which tensors are aligned in a buffer, as GPU kernels prefer."""

HOOK = "block_swap"


def swap_blocks(transformer: nn.Module, blocks: Sequence[nn.Module], count: int, device: torch.device) -> None:
    """Moves the frozen weights of ``count`` blocks to host memory, and everything else to the device, in place.

    The blocks are spread evenly, so that the copies of the next one are hidden behind as much work as possible. LoRA
    weights always stay on the device.

    Args:
        transformer: the model, with its LoRA if it has one.
        blocks: its repeated blocks in the order in which they compute.
        count: how many to swap; at most all.
        device: where the model computes.
    """
    swapped = [blocks[index] for index in swapped_indices(len(blocks), count)]
    swap = BlockSwap([_PackedBlock(block, device) for block in swapped], device)
    on_host = {id(tensor) for packed in swap.blocks for tensor in packed.tensors}
    others = (tensor for tensor in (*transformer.parameters(), *transformer.buffers()) if id(tensor) not in on_host)
    move(others, device)
    for number, slot in enumerate(swap.slots):
        transformer.register_buffer(f"swap_slot_{number}", slot.buffer, persistent=False)
    for position, block in enumerate(swapped):
        HookRegistry.check_if_exists_or_initialize(block).register_hook(_Hook(swap, position), HOOK)


def pack_blocks(blocks: Sequence[nn.Module], count: int, device: torch.device) -> None:
    """Packs the weights of the blocks that will be swapped, in place; copies of the model then share the buffers."""
    for index in swapped_indices(len(blocks), count):
        _PackedBlock(blocks[index], device)


def swapped_indices(blocks: int, count: int) -> list[int]:
    """Returns the indices of ``count`` of the blocks, spread evenly."""
    return [index for index in range(blocks) if (index + 1) * count // blocks > index * count // blocks]


def swapped_buffers(transformer: nn.Module) -> list[Tensor]:
    """Returns the buffers in host memory of a transformer's swapped blocks, uint8."""
    registries: list[Any] = [getattr(module, "_diffusers_hook", None) for module in transformer.modules()]
    hooks = [hook for registry in registries if registry and (hook := registry.get_hook(HOOK))]
    return [block.host for hook in hooks[:1] for block in hook.swap.blocks]


class _Piece(NamedTuple):
    """The place of a tensor in the buffer of its block."""

    start: int
    shape: torch.Size
    dtype: torch.dtype

    def of(self, buffer: Tensor) -> Tensor:
        """Returns the tensor that lies in a buffer, as a view."""
        size = self.shape.numel() * self.dtype.itemsize
        return buffer[self.start : self.start + size].view(self.dtype).view(self.shape)


class _PackedBlock:
    """The frozen tensors of a block, packed into one buffer in host memory so that a single copy moves them.

    In a block that was packed before, tensors that have been replaced since are left alone.

    Attributes:
        tensors: the block's own parameters and buffers. Their data lies in the host's buffer or in a slot.
        host: the buffer, uint8 ``[N]``.
    """

    def __init__(self, block: nn.Module, device: torch.device) -> None:
        tensors = list(_frozen(block))
        pieces, size = _layout(tensors)
        packed = _buffer_of(tensors, pieces, size)
        if packed is not None:
            there = [_lies_in(tensor, packed) for tensor in tensors]
            pieces, tensors = list(compress(pieces, there)), list(compress(tensors, there))
        self.tensors, self._pieces = tensors, pieces
        self.host = host_buffer(size, device) if packed is None else packed
        if packed is None:
            for piece, tensor in zip(pieces, tensors, strict=True):
                piece.of(self.host).copy_(tensor.data)
                tensor.data = piece.of(self.host)

    def bind(self, buffer: Tensor) -> None:
        """Lets the block compute with the weights in a buffer."""
        for piece, tensor in zip(self._pieces, self.tensors, strict=True):
            tensor.data = piece.of(buffer)


class _Slot:
    """A place on the device for the weights of one block.

    Attributes:
        buffer: uint8 ``[N]``.
        holds: position of the block whose weights it has, or None.
        arrived: the copy that brings them, as :class:`Copies` knows it.
    """

    def __init__(self, size: int, device: torch.device) -> None:
        self.buffer = torch.empty(size, dtype=torch.uint8, device=device)
        self.holds: int | None = None
        self.arrived: Any = None


class Copies:
    """Copies from host memory to a device, beside its computation where the device can do that."""

    def __init__(self, device: torch.device) -> None:
        self._module: Any = getattr(torch, device.type) if device.type in STREAMING else None
        self._stream: Any = self._module.Stream(device) if self._module else None
        self._device = device

    def use(self, target: Tensor) -> None:
        """Announces a buffer to copy to, whose memory is then not used for anything else before a copy has ended."""
        if self._stream is not None:
            target.record_stream(self._stream)

    def start(self, target: Tensor, source: Tensor) -> Any:
        """Starts a copy after all work that is queued on the device, and returns what :meth:`wait` takes."""
        if self._stream is None:
            target.copy_(source)
            return None
        self._stream.wait_stream(self._module.current_stream(self._device))
        with self._module.stream(self._stream):
            target.copy_(source, non_blocking=True)
        return self._stream.record_event()

    def wait(self, copy: Any) -> None:
        """Lets all further work on the device wait for a copy."""
        if copy is not None:
            self._module.current_stream(self._device).wait_event(copy)


class BlockSwap:
    """Brings blocks into the slots, before they compute and ahead of that.

    Attributes:
        blocks: the swapped blocks in the order in which they compute.
        slots: their places on the device.
        copies: copies them.
    """

    def __init__(self, blocks: Sequence[_PackedBlock], device: torch.device) -> None:
        self.blocks = blocks
        size = max(len(block.host) for block in blocks)
        self.copies = Copies(device)
        self.slots = [_Slot(size, device) for _ in range(min(SLOTS, len(blocks)))]
        for slot in self.slots:
            self.copies.use(slot.buffer)
        self._last = -1

    def enter(self, position: int) -> None:
        """Makes a block ready to compute, and starts to bring the one that is expected next."""
        following = self._following(position)
        self._last = position
        slot = self._slot_of(position) or self._bring(position, self._other_slot(self._slot_of(following)))
        self.copies.wait(slot.arrived)
        self.blocks[position].bind(slot.buffer)
        if following is not None and self._slot_of(following) is None:
            self._bring(following, self._other_slot(slot))

    def _following(self, position: int) -> int | None:
        """Returns the block that is expected after this one, or None if that is certain to be there.

        The order of the last two blocks says whether a pass runs forwards or backwards. With gradients, a forward pass
        is followed by a backward pass, which begins with the block that was the last; without, by another one.
        """
        last, end = self._last, len(self.blocks) - 1
        backwards = torch.is_grad_enabled() and (position == last - 1 or position == last == end)
        if backwards:
            return position - 1 if position else None
        if position == end:
            return None if torch.is_grad_enabled() else 0
        return position + 1

    def _slot_of(self, position: int | None) -> _Slot | None:
        return next((slot for slot in self.slots if position is not None and slot.holds == position), None)

    def _other_slot(self, slot: _Slot | None) -> _Slot:
        return next(other for other in reversed(self.slots) if other is not slot or len(self.slots) == 1)

    def _bring(self, position: int, slot: _Slot) -> _Slot:
        """Starts to copy a block's weights into a slot, whose block goes back to the host.

        All work on the slot's old contents must be queued on the current stream. In a backward pass it is: autograd
        runs all of a block's gradients before it computes an earlier block again.
        """
        if slot.holds is not None:
            old = self.blocks[slot.holds]
            old.bind(old.host)
        slot.holds, source = position, self.blocks[position].host
        slot.arrived = self.copies.start(slot.buffer[: len(source)], source)
        return slot


class _Hook(ModelHook):
    """Calls :meth:`BlockSwap.enter` before a block computes. A step cache that skips the block skips this too."""

    def __init__(self, swap: BlockSwap, position: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.swap, self._position = swap, position

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def pre_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> tuple[Any, Any]:  # noqa: ARG002
        """Makes the block ready."""
        self.swap.enter(self._position)
        return args, kwargs


def _frozen(block: nn.Module) -> Iterator[Tensor]:
    """Yields the tensors of a block without those of LoRAs."""
    for name, tensor in (*block.named_parameters(), *block.named_buffers()):
        if ".lora_" not in name and not tensor.requires_grad:
            yield tensor


def _layout(tensors: Sequence[Tensor]) -> tuple[list[_Piece], int]:
    """Returns the place of each tensor in a buffer, and the buffer's size in bytes."""
    pieces, size = [], 0
    for tensor in tensors:
        pieces.append(_Piece(size, tensor.shape, tensor.dtype))
        size += -(-tensor.nbytes // ALIGNMENT) * ALIGNMENT
    return pieces, size


def _buffer_of(tensors: Sequence[Tensor], pieces: Sequence[_Piece], size: int) -> Tensor | None:
    """Returns the buffer in which most of the tensors lie at the given places already, or None if they do not."""
    placed = [
        tensor.untyped_storage()
        for tensor, piece in zip(tensors, pieces, strict=True)
        if tensor.untyped_storage().nbytes() == size and tensor.storage_offset() * tensor.element_size() == piece.start
    ]
    keys = [storage._cdata for storage in placed]
    if not keys or 2 * keys.count(keys[0]) <= len(tensors):
        return None
    buffer = torch.empty(0, dtype=torch.uint8)
    buffer.set_(placed[0], 0, (size,))  # type: ignore[call-overload]
    return buffer


def _lies_in(tensor: Tensor, buffer: Tensor) -> bool:
    return bool(tensor.untyped_storage()._cdata == buffer.untyped_storage()._cdata)
