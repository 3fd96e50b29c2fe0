"""GGUF files for tests. The gguf package reads K-kinds and cannot write them, so their blocks are encoded here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import gguf
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Values = NDArray[np.float32]
Codes = NDArray[np.uint8]

BLOCK = 256
K_KINDS = ("Q4_K", "Q5_K", "Q6_K")


def encode(values: Values, kind: str) -> Codes:
    """Quantises ``[D', D]`` into the rows of a GGUF file, uint8 ``[D', N]``."""
    if kind not in K_KINDS:
        return gguf.quants.quantize(values, gguf.GGMLQuantizationType[kind])
    blocks = np.ascontiguousarray(values, np.float32).reshape(-1, BLOCK)
    codes = _q6_k(blocks) if kind == "Q6_K" else _q4_or_q5_k(blocks, int(kind[1]))
    return codes.reshape(len(values), -1)


def _divided(values: Values, by: Values) -> Values:
    return np.divide(values, by, out=np.zeros(np.broadcast_shapes(values.shape, by.shape), np.float32), where=by != 0)


def _half(values: Values) -> tuple[Values, Codes]:
    """Returns values as float16 holds them, and the bytes."""
    half = values.astype(np.float16)
    return half.astype(np.float32), half.view(np.uint8).reshape(len(values), -1)


def _q4_or_q5_k(blocks: Values, bits: int) -> Codes:
    """Packs d, dmin, 8 pairs of a 6-bit scale and minimum, the fifth bits, and two 4-bit codes a byte."""
    groups = blocks.reshape(-1, 8, 32)
    least = np.maximum(-groups.min(2), 0)
    widths = (groups.max(2) + least) / (2**bits - 1)
    d, d_bytes = _half(widths.max(1, keepdims=True) / 63)
    d_min, d_min_bytes = _half(least.max(1, keepdims=True) / 63)
    scale, minimum = (
        np.clip(np.rint(_divided(a, b)), 0, 63).astype(np.uint8) for a, b in ((widths, d), (least, d_min))
    )
    shifted = groups + (d_min * minimum)[..., None]
    codes = np.clip(np.rint(_divided(shifted, (d * scale)[..., None])), 0, 2**bits - 1).astype(np.uint8)
    first = np.concatenate([scale[:, :4] | scale[:, 4:] >> 4 << 6, minimum[:, :4] | minimum[:, 4:] >> 4 << 6], 1)
    scales = np.concatenate([first, scale[:, 4:] & 15 | (minimum[:, 4:] & 15) << 4], 1)
    fifth = np.bitwise_or.reduce((codes >> 4) << np.arange(8, dtype=np.uint8)[:, None], 1)
    pairs = codes.reshape(-1, 4, 2, 32) & 15
    low = (pairs[:, :, 0] | pairs[:, :, 1] << 4).reshape(len(blocks), -1)
    return np.concatenate([d_bytes, d_min_bytes, scales, *([fifth] if bits == 5 else []), low], 1)


def _q6_k(blocks: Values) -> Codes:
    """Packs the low 4 bits, the high 2 bits, 16 8-bit scales and d."""
    groups = blocks.reshape(-1, 16, 16)
    widths = np.abs(groups).max(2) / 31
    d, d_bytes = _half(widths.max(1, keepdims=True) / 127)
    scale = np.clip(np.rint(_divided(widths, d)), 0, 127)
    codes = np.clip(np.rint(_divided(groups, (d * scale)[..., None])), -32, 31) + 32
    quarters = codes.astype(np.uint8).reshape(-1, 2, 4, 32)
    low = np.stack([quarters[:, :, index] & 15 | (quarters[:, :, index + 2] & 15) << 4 for index in (0, 1)], 2)
    high = np.bitwise_or.reduce((quarters >> 4) << np.array([0, 2, 4, 6], np.uint8)[:, None], 2)
    rows = len(blocks)
    return np.concatenate([low.reshape(rows, -1), high.reshape(rows, -1), scale.astype(np.uint8), d_bytes], 1)


def write_gguf(path: Path, state: Mapping[str, Tensor], kind_of: Callable[[str, Tensor], str | None]) -> None:
    """Writes a file with native names.

    Args:
        kind_of: the GGUF type of a tensor by name; None is float32.
    """
    writer = gguf.GGUFWriter(path, "wan")
    for name, value in state.items():
        kind = kind_of(name, value)
        if kind is None:
            writer.add_tensor(name, value.float().numpy())
        else:
            codes = encode(value.float().numpy(), kind)
            writer.add_tensor(name, codes, raw_dtype=gguf.GGMLQuantizationType[kind])
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
        write()
    writer.close()
