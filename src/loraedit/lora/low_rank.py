"""Low-rank changes of linear layers, and their conversion between fused and separate layers.

HunyuanVideo's own code, ComfyUI and musubi-tuner have one layer for queries, keys and values (``img_attn_qkv``), and in
single blocks one for these and the MLP (``linear1``). Diffusers has a layer for each. Both conversions are exact: the
rows of a fused layer are the rows of its parts, one part below the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from loraedit.families.layer_names import fused_layers, fused_layers_among, numbered, unnumbered
from loraedit.lora.header import part_rows

__all__ = ["LowRankLayer", "split_fused_layers", "to_native_layers"]

MLP_RATIO = 4
"""Width of the MLP in a HunyuanVideo block, relative to the block."""


@dataclass(frozen=True)
class LowRankLayer:
    """A low-rank change of one linear layer: W becomes W + alpha / rank B A.

    Attributes:
        down: A, ``[rank, in]``.
        up: B, ``[out, rank]``.
        alpha: a float32 number as stored in the file; the rank if the file states none.
    """

    down: Tensor
    up: Tensor
    alpha: float

    @property
    def rank(self) -> int:
        """Returns the rank."""
        return int(self.down.shape[0])

    @property
    def scale(self) -> float:
        """Returns the factor of B A."""
        return self.alpha / self.rank


def split_fused_layers(layers: dict[str, LowRankLayer]) -> dict[str, LowRankLayer]:
    """Splits fused layers into those of diffusers, by diffusers' names. Other layers stay as they are.

    Raises:
        ValueError: a fused layer has another size than its parts.
    """
    table = fused_layers()
    found: dict[str, LowRankLayer] = {}
    for name, layer in layers.items():
        pattern, number = unnumbered(name)
        parts = table.get(pattern)
        found |= {name: layer} if parts is None else _split(layer, [numbered(part, number) for part in parts])
    return found


def to_native_layers(layers: dict[str, LowRankLayer], fused: bool) -> dict[str, LowRankLayer]:
    """Renames the layers of a family with fused layers to its own names. LoRAs of other families stay as they are.

    Args:
        fused: merges queries, keys and values into one layer. ComfyUI does so for HunyuanVideo and HunyuanVideo-1.5,
            musubi-tuner only for HunyuanVideo, which is recognised by its single blocks.
    """
    table = fused_layers_among(layers)
    if not table:
        return layers
    fused = fused or any(name.startswith("single_") for name in layers)
    native = {parts: name for name, parts in reversed(list(table.items())) if fused or "qkv" not in name}
    of_part = {part: parts for parts in native for part in parts}
    groups: dict[tuple[str, str], dict[str, LowRankLayer]] = {}
    renamed: dict[str, LowRankLayer] = {}
    for name, layer in layers.items():
        pattern, number = unnumbered(name)
        if pattern in of_part:
            groups.setdefault((native[of_part[pattern]], number), {})[pattern] = layer
        else:
            renamed[name] = layer
    for (name, number), group in groups.items():
        parts = [group.get(part) for part in table[name]]
        renamed[numbered(name, number)] = _fuse(parts)
    return renamed


def _split(layer: LowRankLayer, names: Sequence[str]) -> dict[str, LowRankLayer]:
    """Splits a layer into its parts. A part that the layer does not change is left out."""
    if len(names) == 1:
        return {names[0]: layer}
    sizes = part_rows(int(layer.up.shape[0]), int(layer.down.shape[1]), len(names))
    return {
        name: part
        for name, up in zip(names, torch.split(layer.up, sizes), strict=True)
        if (part := _used_part(layer, up)) is not None
    }


def _used_part(layer: LowRankLayer, up: Tensor) -> LowRankLayer | None:
    """Returns a part without the rank directions in which its B is 0, or None if B is 0 altogether."""
    used = up.ne(0).any(0)
    if bool(used.all()):
        return LowRankLayer(layer.down, up.contiguous(), layer.alpha)
    rank = int(used.sum())
    return LowRankLayer(layer.down[used], up[:, used].contiguous(), _float32(layer.scale * rank)) if rank else None


def _fuse(parts: Sequence[LowRankLayer | None]) -> LowRankLayer:
    """Returns one layer for several: their A below each other, their B on a diagonal; B of absent parts is 0."""
    present = [part for part in parts if part is not None]
    if len(parts) == 1:
        return present[0]
    width = int(present[0].down.shape[1])
    sizes = [width] * 3 + [MLP_RATIO * width] * (len(parts) - 3)
    same_down = len(present) == len(parts) and all(
        torch.equal(part.down, present[0].down) and part.alpha == present[0].alpha for part in present
    )
    if same_down:  # the parts come from one fused layer
        return LowRankLayer(present[0].down, torch.cat([part.up for part in present]), present[0].alpha)
    same_scale = len({part.scale for part in present}) == 1
    rank = sum(part.rank for part in present)
    rows, at = [], 0
    for part, size in zip(parts, sizes, strict=True):
        up = present[0].up.new_zeros(size if part is None else int(part.up.shape[0]), rank)
        if part is not None:
            up[:, at : at + part.rank] = part.up if same_scale else part.up * part.scale
            at += part.rank
        rows.append(up)
    alpha = _float32(present[0].scale * rank) if same_scale else float(rank)
    return LowRankLayer(torch.cat([part.down for part in present]), torch.cat(rows), alpha)


def _float32(value: float) -> float:
    return float(torch.tensor(value))
