"""Attention of Wan's blocks on a CPU, written out: short sequences are faster so than in torch's fused kernel.

The same values as diffusers' own processor up to rounding. Against torch's written-out attention it leaves out the
search for rows that are masked whole (there are no masks here), and its gradient takes one pass less.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import WanTransformer3DModel
from diffusers.models.transformers.transformer_wan import WanAttention, WanAttnProcessor
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

__all__ = ["write_out_attention"]

MOST_SCORES = 2**26
"""Up to so many scores, of all heads together, are written out; beyond, the fused kernel saves memory."""


def write_out_attention(transformer: nn.Module) -> None:
    """Give the layers without image keys the processor below, in place; of diffusers' Wan transformer alone."""
    if isinstance(transformer, WanTransformer3DModel):
        for module in transformer.modules():
            if isinstance(module, WanAttention) and module.add_k_proj is None:
                module.set_processor(_WrittenOut())  # type: ignore[arg-type, no-untyped-call]


class _WrittenOut(WanAttnProcessor):
    """Diffusers' processor, with the rotation as one complex product and the attention written out."""

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
        value = attn.to_v(context)
        query, key = attn.norm_q(attn.to_q(hidden_states)), attn.norm_k(attn.to_k(context))
        query, key, value = (each.unflatten(2, (attn.heads, -1)) for each in (query, key, value))
        if rotary_emb is not None:
            turn = torch.complex(rotary_emb[0][..., 0::2], rotary_emb[1][..., 1::2])
            query, key = _turned(query, turn), _turned(key, turn)
        heads = (each.to(value.dtype).transpose(1, 2) for each in (query, key, value))
        mixed = _attend(*heads).transpose(1, 2).flatten(2)
        result: Tensor = attn.to_out[1](attn.to_out[0](mixed))
        return result


def _turned(values: Tensor, turn: Tensor) -> Tensor:
    """Neighbouring pairs ``[B, L, H, D]`` turned by complex ``[1, L, 1, D / 2]``, in float32."""
    pairs = torch.view_as_complex(values.float().unflatten(-1, (-1, 2)))  # type: ignore[no-untyped-call]
    return torch.view_as_real(pairs * turn).flatten(3)


def _attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(D)) v of ``[B, H, L, D]``."""
    if query.shape[:3].numel() * key.shape[2] > MOST_SCORES:
        return scaled_dot_product_attention(query, key, value)
    attended: Tensor = _Attention.apply(query, key, value)  # type: ignore[no-untyped-call]
    return attended


class _Attention(torch.autograd.Function):
    """The attention and its gradient: dS = P * (dP - rowsum(dO * O))."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        query = query * query.shape[-1] ** -0.5
        shares = (query @ key.transpose(-1, -2)).softmax(-1)
        mixed = shares @ value
        ctx.save_for_backward(query, key, value, shares, mixed)
        return mixed

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        (gradient,) = gradients
        query, key, value, shares, mixed = ctx.saved_tensors
        of_scores = gradient @ value.transpose(-1, -2)
        of_scores.sub_((gradient * mixed).sum(-1, keepdim=True)).mul_(shares)
        of_query = (of_scores @ key) * query.shape[-1] ** -0.5
        return of_query, of_scores.transpose(-1, -2) @ query, shares.transpose(-1, -2) @ gradient
