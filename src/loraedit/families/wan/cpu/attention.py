"""Attention of Wan's blocks on a CPU, tile by tile: faster than torch's fused kernel, with as little memory.

The values equal those of diffusers' own processor up to rounding. Only one tile of the score matrix exists at a time,
forwards and backwards: the outputs of the linear layers are saved for the gradient, and the scores are computed again
from them. Scores are exponents of two. If none can overflow, no row maximum is subtracted, and the exponential takes
one pass over a row.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from diffusers.models.transformers.transformer_wan import WanAttention, WanAttnProcessor
from torch import Tensor

from loraedit.families.wan.cpu.rows import by_rows

__all__ = ["restore_attention", "speed_up_attention"]

TILE = 2**19
"""Scores of a tile: a megabyte in bfloat16, which fits into the cache of a core."""
MIN_ROWS = 224
"""Queries of a tile at least, whatever its size: matrix products of fewer rows are slow."""
MAX_EXPONENT = 96.0
"""Powers of two up to this exponent, their sums and products are well within the range of bfloat16 and float32."""


def speed_up_attention(attention: WanAttention) -> None:
    """Sets the processor of this module, in place. A layer with image keys keeps its own."""
    if attention.add_k_proj is None:
        attention.set_processor(_TiledProcessor())  # type: ignore[arg-type, no-untyped-call]


def restore_attention(attention: WanAttention) -> None:
    """Sets diffusers' own processor again, in place."""
    if isinstance(attention.processor, _TiledProcessor):
        attention.set_processor(WanAttnProcessor())  # type: ignore[arg-type]


class _TiledProcessor(WanAttnProcessor):
    """Diffusers' processor with norms, rotation and attention as one step, whose gradient computes them again."""

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        if attention_mask is not None or attn.fused_projections or self._parallel_config is not None:
            output: Tensor = super().__call__(attn, hidden_states, encoder_hidden_states, attention_mask, rotary_emb)
            return output
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        rotation = None
        if rotary_emb is not None:
            rotation = torch.complex(rotary_emb[0][..., 0::2], rotary_emb[1][..., 1::2])
        attend = _attend_with_gradient if torch.is_grad_enabled() else _attend
        result: Tensor = attn.to_out[1](attn.to_out[0](attend(attn, hidden_states, context, rotation)))
        return result


def _attend_with_gradient(attn: Any, hidden_states: Tensor, context: Tensor, rotation: Tensor | None) -> Tensor:
    """Computes the input of the output projection, ``[B, L, H D]``, with its gradient."""
    projected = attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context)
    norms = attn.norm_q.weight, attn.norm_k.weight
    mixed: Tensor = _Attention.apply(*projected, *norms, attn.norm_q.eps, rotation, attn.heads)  # type: ignore[no-untyped-call]
    return mixed


def _attend(attn: Any, hidden_states: Tensor, context: Tensor, rotation: Tensor | None) -> Tensor:
    """Computes the same without a gradient. No intermediate outlives its use, and the result overwrites q."""
    heads, eps = attn.heads, attn.norm_q.eps

    def query(rows: slice) -> Tensor:
        return _prepared_query(
            attn.to_q(hidden_states[:, rows]), attn.norm_q.weight, eps, _rows_of(rotation, rows), heads
        )

    def key(rows: slice) -> Tensor:
        return _prepared_key(attn.to_k(context[:, rows]), attn.norm_k.weight, eps, _rows_of(rotation, rows), heads)

    def value(rows: slice) -> Tensor:
        values: Tensor = attn.to_v(context[:, rows])
        return _split(values, heads, values.dtype)

    q, k = by_rows(query, hidden_states.shape[1]), by_rows(key, context.shape[1])
    bounded, columns = _bounded(q, k), k.mT.contiguous()
    del k
    return _join(_mixed(q, columns, by_rows(value, context.shape[1]), bounded, q)[0], heads)


def _rows_of(rotation: Tensor | None, rows: slice) -> Tensor | None:
    return None if rotation is None else rotation[:, rows]


class _Attention(torch.autograd.Function):
    """Computes softmax(q k^T / sqrt(D)) v of normalised and rotated q and k, all ``[B, L, H D]``, and its gradient.

    With E = 2^(q k^T), s its sums over rows and O = E v / s: dE = (dO / s) v^T, dS = E * (dE - rowsum(dO / s * O)).
    """

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        query_weight: Tensor,
        key_weight: Tensor,
        eps: float,
        rotation: Tensor | None,
        heads: int,
    ) -> Tensor:
        ctx.options = eps, rotation, heads
        q, k, v = _prepared(query, key, value, query_weight, key_weight, *ctx.options)
        ctx.bounded = _bounded(q, k)
        mixed, sums = _mixed(q, k.mT.contiguous(), v, ctx.bounded)
        joined = _join(mixed, heads)
        ctx.save_for_backward(query, key, value, query_weight, key_weight, joined, sums)
        return joined

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, query_weight, key_weight, joined, sums = ctx.saved_tensors
        eps, rotation, heads = ctx.options
        prepared = _prepared(query, key, value, query_weight, key_weight, *ctx.options)
        shared = _split(gradients[0].contiguous(), heads, value.dtype).div_(sums)
        of_q, of_k, of_v = _attention_gradient(*prepared, shared, _split(joined, heads, value.dtype), ctx.bounded)
        del prepared, shared
        in_products = query_weight * (of_q.shape[-1] ** -0.5)
        of_query = _norm_gradient(_join(of_q, heads), query, in_products, eps, rotation, heads)
        of_key = _norm_gradient(_join(of_k.mT, heads), key, key_weight * math.log(2), eps, rotation, heads)
        return of_query, of_key, _join(of_v.mT, heads), *[None] * 5


def _mixed(q: Tensor, columns: Tensor, v: Tensor, bounded: bool, out: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Computes O and s.

    Args:
        columns: k^T, laid out once for all tiles.
        out: where to put O; may be q itself.
    """
    mixed, sums = torch.empty_like(q) if out is None else out, q.new_empty(*q.shape[:2], 1)
    for here, rows in _tiles(q, v):
        _mix(q[here, rows], columns[here], v[here], mixed[here, rows], sums[here, rows], bounded)
    return mixed.div_(sums), sums


def _mix(query: Tensor, columns: Tensor, value: Tensor, mixed: Tensor, sums: Tensor, bounded: bool) -> None:
    """Fills in E v and s of a tile."""
    powers = _powers(query, columns, bounded)
    torch.sum(powers, -1, keepdim=True, out=sums)
    torch.matmul(powers, value, out=mixed)


def _attention_gradient(
    q: Tensor, k: Tensor, v: Tensor, shared: Tensor, mixed: Tensor, bounded: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Computes the gradients of q, k^T and v^T from dO / s and O.

    Scores are exponents of two here, so the gradients of q and k lack a factor of log 2.
    """
    of_q, of_k, of_v = torch.empty_like(q), k.new_zeros(k.mT.shape), v.new_zeros(v.mT.shape)
    centred = torch.cat([shared, -(shared * mixed).sum(-1, keepdim=True)], -1)
    with_one = torch.cat([v.mT, torch.ones_like(v.mT[:, :1])], 1)
    columns = k.mT.contiguous()
    for here, rows in _tiles(q, k):
        powers = _powers(q[here, rows], columns[here], bounded)
        of_v[here].baddbmm_(shared[here, rows].mT, powers)  # powers.mT @ shared would copy the tile
        of_scores = powers.mul_(centred[here, rows] @ with_one[here])
        torch.matmul(of_scores, k[here], out=of_q[here, rows])
        of_k[here].baddbmm_(q[here, rows].mT, of_scores)
        del powers, of_scores
    return of_q, of_k, of_v


def _prepared(
    query: Tensor, key: Tensor, value: Tensor, query_weight: Tensor, key_weight: Tensor, eps: float,
    rotation: Tensor | None, heads: int,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Returns normalised and rotated q and k, and v, ``[B H, L, D]``; q k^T are the scores as exponents of two."""
    q, k = (
        _prepared_query(query, query_weight, eps, rotation, heads),
        _prepared_key(key, key_weight, eps, rotation, heads),
    )
    return q, k, _split(value, heads, value.dtype)


def _prepared_query(query: Tensor, weight: Tensor, eps: float, rotation: Tensor | None, heads: int) -> Tensor:
    in_powers = (query.shape[-1] // heads) ** -0.5 / math.log(2)
    return _prepared_key(query, weight * in_powers, eps, rotation, heads)


def _prepared_key(key: Tensor, weight: Tensor, eps: float, rotation: Tensor | None, heads: int) -> Tensor:
    return _split(_rotated(_normed(key, weight, eps), rotation, heads), heads, key.dtype)


def _split(values: Tensor, heads: int, dtype: torch.dtype) -> Tensor:
    """Copies ``[B, L, H D]`` into ``[B H, L, D]``."""
    by_head = values.view(*values.shape[:2], heads, -1).transpose(1, 2)
    return by_head.to(dtype, copy=True, memory_format=torch.contiguous_format).flatten(0, 1)


def _join(values: Tensor, heads: int) -> Tensor:
    """Copies ``[B H, L, D]`` into ``[B, L, H D]``."""
    return values.reshape(-1, heads, *values.shape[1:]).transpose(1, 2).flatten(2).contiguous()


def _exact(values: Tensor) -> Tensor:
    """Converts to float32, or leaves a higher precision."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _normed(values: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Computes the RMS norm over all heads, in one pass less than torch's own."""
    exact = _exact(values)
    return (exact * _scale(exact, eps)).mul_(weight)


def _scale(values: Tensor, eps: float) -> Tensor:
    """Computes 1 / sqrt(mean square + eps)."""
    length: Tensor = torch.linalg.vector_norm(values, dim=-1, keepdim=True)
    return (length.square() / values.shape[-1] + eps).rsqrt()


def _rotated(values: Tensor, rotation: Tensor | None, heads: int) -> Tensor:
    """Rotates neighbouring pairs of ``[B, L, H D]`` by complex ``[1, L, 1, D / 2]``."""
    if rotation is None:
        return values
    pairs = torch.view_as_complex(values.view(*values.shape[:2], heads, -1, 2))
    return torch.view_as_real(pairs * rotation).flatten(2)


def _norm_gradient(
    gradient: Tensor, values: Tensor, weight: Tensor, eps: float, rotation: Tensor | None, heads: int
) -> Tensor:
    """Computes the gradient before norm and rotation from the one after them, both ``[B, L, H D]``."""
    exact = _exact(values)
    gradient = _rotated(_exact(gradient), None if rotation is None else rotation.conj(), heads).mul_(weight)
    scale = _scale(exact, eps)
    along = (gradient * exact).mean(-1, keepdim=True) * scale.square()
    return gradient.addcmul_(exact, along, value=-1).mul_(scale).to(values.dtype)


def _bounded(query: Tensor, key: Tensor) -> bool:
    """Returns whether no score can exceed MAX_EXPONENT, by the lengths of the vectors."""
    longest = [torch.linalg.vector_norm(vectors, dim=-1).amax(-1) for vectors in (query, key)]
    return float((longest[0] * longest[1]).max()) < MAX_EXPONENT


def _powers(query: Tensor, columns: Tensor, bounded: bool) -> Tensor:
    """Computes 2^(q k^T) from k^T; if scores may be large, each row divided by its largest power."""
    scores = query @ columns
    if not bounded:
        scores.sub_(scores.amax(-1, keepdim=True))
    return scores.exp2_()


def _tiles(query: Tensor, value: Tensor) -> Iterator[tuple[slice, slice]]:
    """Yields the place of each tile's queries in ``[B H, L, D]``: several heads, or some rows of one head."""
    (heads, rows, _), columns = query.shape, value.shape[1]
    together, length = max(1, TILE // (rows * columns)), max(MIN_ROWS, TILE // columns)
    for head in range(0, heads, together):
        for row in range(0, rows, length):
            yield slice(head, head + together), slice(row, row + length)
