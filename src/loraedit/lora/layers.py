"""Low-rank changes of linear layers, and of layers that one program holds as one and another apart.

HunyuanVideo's own code, ComfyUI and musubi-tuner have one layer for queries, keys and values (``img_attn_qkv``), and in
single blocks for the MLP too (``linear1``); diffusers has one for each. Both ways are exact: the change of the whole is
the changes of its parts, one below the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from loraedit.families.layer_names import fused_layers, fused_layers_among, numbered, unnumbered

__all__ = ["Layer", "split_fused", "to_native"]

MLP = 4
"""How much wider the MLP of a HunyuanVideo block is than the block."""


@dataclass(frozen=True)
class Layer:
    """A low-rank change of one linear layer, W + alpha / rank B A.

    Attributes:
        down: A, ``[rank, in]``.
        up: B, ``[out, rank]``.
        alpha: as stored, a float32 number; the rank if the file says nothing.
    """

    down: Tensor
    up: Tensor
    alpha: float

    @property
    def rank(self) -> int:
        """The rank."""
        return int(self.down.shape[0])

    @property
    def scale(self) -> float:
        """What B A is multiplied by."""
        return self.alpha / self.rank


def split_fused(layers: dict[str, Layer]) -> dict[str, Layer]:
    """A HunyuanVideo LoRA by diffusers' names; one that names no layer of HunyuanVideo's own stays as it is.

    Raises:
        ValueError: a layer has another size than HunyuanVideo's.
    """
    table = fused_layers()
    found: dict[str, Layer] = {}
    for name, layer in layers.items():
        pattern, number = unnumbered(name)
        parts = table.get(pattern)
        pieces = {name: layer} if parts is None else _apart(layer, [numbered(part, number) for part in parts])
        found |= pieces
    return found


def to_native(layers: dict[str, Layer], fused: bool) -> dict[str, Layer]:
    """A LoRA of HunyuanVideo or HunyuanVideo-1.5 by their own names; any other one stays as it is.

    Args:
        fused: one layer for queries, keys and values. ComfyUI holds both models so, musubi-tuner the first alone, which
            is known by its single blocks.
    """
    table = fused_layers_among(layers)
    if not table:
        return layers
    fused = fused or any(name.startswith("single_") for name in layers)
    native = {parts: name for name, parts in reversed(list(table.items())) if fused or "qkv" not in name}
    of_part = {part: parts for parts in native for part in parts}
    groups: dict[tuple[str, str], dict[str, Layer]] = {}
    made: dict[str, Layer] = {}
    for name, layer in layers.items():
        pattern, number = unnumbered(name)
        if pattern in of_part:
            groups.setdefault((native[of_part[pattern]], number), {})[pattern] = layer
        else:
            made[name] = layer
    for (name, number), group in groups.items():
        parts = [group.get(part) for part in table[name]]
        made[numbered(name, number)] = _together(parts)
    return made


def _apart(layer: Layer, names: Sequence[str]) -> dict[str, Layer]:
    """The parts of a layer, each with the directions that reach it; a part that none reaches is left out."""
    if len(names) == 1:
        return {names[0]: layer}
    out, width = int(layer.up.shape[0]), int(layer.down.shape[1])
    sizes = [out // 3] * 3 if len(names) == 3 else [width] * 3 + [out - 3 * width]
    if sum(sizes) != out or sizes[-1] < 1:
        raise ValueError(f"{out} rows are not those of {len(names)} layers")
    return {
        name: part
        for name, up in zip(names, torch.split(layer.up, sizes), strict=True)
        if (part := _reaching(layer, up)) is not None
    }


def _reaching(layer: Layer, up: Tensor) -> Layer | None:
    """A part without the directions in which its B is 0; of a header alone, which has no values, with all of them."""
    if up.is_meta:
        return Layer(layer.down, up, layer.alpha)
    used = up.ne(0).any(0)
    if bool(used.all()):
        return Layer(layer.down, up.contiguous(), layer.alpha)
    rank = int(used.sum())
    return Layer(layer.down[used], up[:, used].contiguous(), _float32(layer.scale * rank)) if rank else None


def _together(parts: Sequence[Layer | None]) -> Layer:
    """One layer of several: side by side their A, and their B on the diagonal; of absent parts B is 0."""
    there = [part for part in parts if part is not None]
    if len(parts) == 1:
        return there[0]
    width = int(there[0].down.shape[1])
    usual = [width] * 3 + [MLP * width] * (len(parts) - 3)
    alike = len(there) == len(parts) and all(
        torch.equal(part.down, there[0].down) and part.alpha == there[0].alpha for part in there
    )
    if alike:  # as they come from one layer
        return Layer(there[0].down, torch.cat([part.up for part in there]), there[0].alpha)
    same = len({part.scale for part in there}) == 1
    rank = sum(part.rank for part in there)
    rows, at = [], 0
    for part, size in zip(parts, usual, strict=True):
        up = there[0].up.new_zeros(size if part is None else int(part.up.shape[0]), rank)
        if part is not None:
            up[:, at : at + part.rank] = part.up if same else part.up * part.scale
            at += part.rank
        rows.append(up)
    alpha = _float32(there[0].scale * rank) if same else float(rank)
    return Layer(torch.cat([part.down for part in there]), torch.cat(rows), alpha)


def _float32(value: float) -> float:
    return float(torch.tensor(value))
