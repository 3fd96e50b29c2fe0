"""Attention of Wan's blocks on a CPU, written out tile by tile: faster than torch's fused kernel, and as frugal.

The same values as diffusers' own processor up to rounding. Of the table of scores there is a tile at a time, forwards
and backwards: what is saved for the gradient is what the linear layers gave, and the table is computed again from it.
Scores are kept in powers of two, and where none can overflow no maximum is looked for: the exponential of a row is then
one pass over it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from diffusers.models.transformers.transformer_wan import WanAttention, WanAttnProcessor
from torch import Tensor

from loraedit.families.wan_cpu.rows import by_rows

__all__ = ["write_out_attention"]

TILE = 2**19
"""So many scores are there at a time: a megabyte in bfloat16, which a core's own cache holds."""
LEAST_ROWS = 224
"""But so many queries at least, whatever that takes: of fewer the products are slow."""
SAFE = 96.0
"""Powers of two up to here, and sums and products of them, are well within what bfloat16 and float32 hold."""


def write_out_attention(attention: WanAttention) -> None:
    """Give a layer the processor below, in place; with image keys it keeps its own."""
    if attention.add_k_proj is None:
        attention.set_processor(_WrittenOut())  # type: ignore[arg-type, no-untyped-call]


class _WrittenOut(WanAttnProcessor):
    """Diffusers' processor; norms, rotation and attention are one step, whose gradient computes them again."""

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
        turn = None
        if rotary_emb is not None:
            turn = torch.complex(rotary_emb[0][..., 0::2], rotary_emb[1][..., 1::2])
        attend = _taught if torch.is_grad_enabled() else _untaught
        result: Tensor = attn.to_out[1](attn.to_out[0](attend(attn, hidden_states, context, turn)))
        return result


def _taught(attn: Any, hidden_states: Tensor, context: Tensor, turn: Tensor | None) -> Tensor:
    """What goes into the last layer, ``[B, L, H D]``, with its gradient."""
    projected = attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context)
    norms = attn.norm_q.weight, attn.norm_k.weight
    mixed: Tensor = _Attention.apply(*projected, *norms, attn.norm_q.eps, turn, attn.heads)  # type: ignore[no-untyped-call]
    return mixed


def _untaught(attn: Any, hidden_states: Tensor, context: Tensor, turn: Tensor | None) -> Tensor:
    """The same without: nothing that a layer gives is kept beside what comes of it, which takes the place of q."""
    heads, eps = attn.heads, attn.norm_q.eps

    def query(rows: slice) -> Tensor:
        return _ready_query(attn.to_q(hidden_states[:, rows]), attn.norm_q.weight, eps, _of(turn, rows), heads)

    def key(rows: slice) -> Tensor:
        return _ready_key(attn.to_k(context[:, rows]), attn.norm_k.weight, eps, _of(turn, rows), heads)

    def value(rows: slice) -> Tensor:
        given: Tensor = attn.to_v(context[:, rows])
        return _split(given, heads, given.dtype)

    q, k = by_rows(query, hidden_states.shape[1]), by_rows(key, context.shape[1])
    bounded, columns = _bounded(q, k), k.mT.contiguous()
    del k
    return _join(_mixed(q, columns, by_rows(value, context.shape[1]), bounded, q)[0], heads)


def _of(turn: Tensor | None, rows: slice) -> Tensor | None:
    return None if turn is None else turn[:, rows]


class _Attention(torch.autograd.Function):
    """softmax(q k^T / sqrt(D)) v of normalised and rotated q and k, all ``[B, L, H D]``, and its gradient.

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
        turn: Tensor | None,
        heads: int,
    ) -> Tensor:
        ctx.about = eps, turn, heads
        q, k, v = _ready(query, key, value, query_weight, key_weight, *ctx.about)
        ctx.bounded = _bounded(q, k)
        mixed, sums = _mixed(q, k.mT.contiguous(), v, ctx.bounded)
        joined = _join(mixed, heads)
        ctx.save_for_backward(query, key, value, query_weight, key_weight, joined, sums)
        return joined

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, query_weight, key_weight, joined, sums = ctx.saved_tensors
        eps, turn, heads = ctx.about
        ready = _ready(query, key, value, query_weight, key_weight, *ctx.about)
        shared = _split(gradients[0].contiguous(), heads, value.dtype).div_(sums)
        of_q, of_k, of_v = _attention_gradient(*ready, shared, _split(joined, heads, value.dtype), ctx.bounded)
        del ready, shared
        in_products = query_weight * (of_q.shape[-1] ** -0.5)
        of_query = _norm_gradient(_join(of_q, heads), query, in_products, eps, turn, heads)
        of_key = _norm_gradient(_join(of_k.mT, heads), key, key_weight * math.log(2), eps, turn, heads)
        return of_query, of_key, _join(of_v.mT, heads), *[None] * 5


def _mixed(q: Tensor, columns: Tensor, v: Tensor, bounded: bool, out: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """O, which may take the place of q, and s; of k^T, which is laid out so once for all tiles."""
    mixed, sums = torch.empty_like(q) if out is None else out, q.new_empty(*q.shape[:2], 1)
    for here, rows in _tiles(q, v):
        _mix(q[here, rows], columns[here], v[here], mixed[here, rows], sums[here, rows], bounded)
    return mixed.div_(sums), sums


def _mix(query: Tensor, columns: Tensor, value: Tensor, mixed: Tensor, sums: Tensor, bounded: bool) -> None:
    """Fill in E v and s of a tile."""
    powers = _powers(query, columns, bounded)
    torch.sum(powers, -1, keepdim=True, out=sums)
    torch.matmul(powers, value, out=mixed)


def _attention_gradient(
    q: Tensor, k: Tensor, v: Tensor, shared: Tensor, mixed: Tensor, bounded: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Of q, and those of k and v transposed, by dO / s and O; for scores as exponents of two, 1 / log 2 of it."""
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


def _ready(
    query: Tensor, key: Tensor, value: Tensor, query_weight: Tensor, key_weight: Tensor, eps: float,
    turn: Tensor | None, heads: int,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Q and k normalised and rotated, and v, ``[B H, L, D]``; q k^T are the scores as exponents of two."""
    q, k = _ready_query(query, query_weight, eps, turn, heads), _ready_key(key, key_weight, eps, turn, heads)
    return q, k, _split(value, heads, value.dtype)


def _ready_query(query: Tensor, weight: Tensor, eps: float, turn: Tensor | None, heads: int) -> Tensor:
    in_powers = (query.shape[-1] // heads) ** -0.5 / math.log(2)
    return _ready_key(query, weight * in_powers, eps, turn, heads)


def _ready_key(key: Tensor, weight: Tensor, eps: float, turn: Tensor | None, heads: int) -> Tensor:
    return _split(_turned(_normed(key, weight, eps), turn, heads), heads, key.dtype)


def _split(values: Tensor, heads: int, dtype: torch.dtype) -> Tensor:
    """``[B, L, H D]`` as ``[B H, L, D]``, a copy."""
    by_head = values.view(*values.shape[:2], heads, -1).transpose(1, 2)
    return by_head.to(dtype, copy=True, memory_format=torch.contiguous_format).flatten(0, 1)


def _join(values: Tensor, heads: int) -> Tensor:
    """``[B H, L, D]`` as ``[B, L, H D]``."""
    return values.reshape(-1, heads, *values.shape[1:]).transpose(1, 2).flatten(2).contiguous()


def _exact(values: Tensor) -> Tensor:
    """In float32 at least."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _normed(values: Tensor, weight: Tensor, eps: float) -> Tensor:
    """The RMS norm over all heads; one pass less than torch's own."""
    exact = _exact(values)
    return (exact * _scale(exact, eps)).mul_(weight)


def _scale(values: Tensor, eps: float) -> Tensor:
    """One over the root of the mean square, and of eps."""
    length: Tensor = torch.linalg.vector_norm(values, dim=-1, keepdim=True)
    return (length.square() / values.shape[-1] + eps).rsqrt()


def _turned(values: Tensor, turn: Tensor | None, heads: int) -> Tensor:
    """Neighbouring pairs of ``[B, L, H D]`` turned by complex ``[1, L, 1, D / 2]``."""
    if turn is None:
        return values
    pairs = torch.view_as_complex(values.view(*values.shape[:2], heads, -1, 2))
    return torch.view_as_real(pairs * turn).flatten(2)


def _norm_gradient(
    gradient: Tensor, values: Tensor, weight: Tensor, eps: float, turn: Tensor | None, heads: int
) -> Tensor:
    """Of what was normalised and turned by that of what came of it, both ``[B, L, H D]``."""
    exact = _exact(values)
    gradient = _turned(_exact(gradient), None if turn is None else turn.conj(), heads).mul_(weight)
    scale = _scale(exact, eps)
    along = (gradient * exact).mean(-1, keepdim=True) * scale.square()
    return gradient.addcmul_(exact, along, value=-1).mul_(scale).to(values.dtype)


def _bounded(query: Tensor, key: Tensor) -> bool:
    """Whether no score can be large, by the lengths of the vectors."""
    longest = [torch.linalg.vector_norm(each, dim=-1).amax(-1) for each in (query, key)]
    return float((longest[0] * longest[1]).max()) < SAFE


def _powers(query: Tensor, columns: Tensor, bounded: bool) -> Tensor:
    """2^(q k^T) of k^T, each row up to a factor if scores may be large."""
    scores = query @ columns
    if not bounded:
        scores.sub_(scores.amax(-1, keepdim=True))
    return scores.exp2_()


def _tiles(query: Tensor, value: Tensor) -> Iterator[tuple[slice, slice]]:
    """Where in ``[B H, L, D]`` the queries of each tile lie: several heads, or some rows of one."""
    (heads, rows, _), columns = query.shape, value.shape[1]
    together, length = max(1, TILE // (rows * columns)), max(LEAST_ROWS, TILE // columns)
    for head in range(0, heads, together):
        for row in range(0, rows, length):
            yield slice(head, head + together), slice(row, row + length)
