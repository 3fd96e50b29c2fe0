"""A block of Wan's transformer on a CPU, written out: the values of diffusers' own, in fewer passes over memory.

Norms read the hidden states as they are and give them back in the same precision, with float32 only inside.
"""

from __future__ import annotations

from types import MethodType

import torch
from diffusers import WanTransformer3DModel
from diffusers.models.transformers.transformer_wan import WanTransformerBlock
from torch import Tensor, nn
from torch.nn.functional import layer_norm

from loraedit.families.wan_cpu.attention import write_out_attention
from loraedit.families.wan_cpu.feed_forward import feed
from loraedit.runtime.memory import blocks

__all__ = ["write_out"]


def write_out(transformer: nn.Module) -> None:
    """Let the blocks run what is written here, in place; of diffusers' Wan transformer alone."""
    if isinstance(transformer, WanTransformer3DModel):
        for block in blocks(transformer):
            assert isinstance(block, WanTransformerBlock)
            write_out_attention(block.attn1)
            write_out_attention(block.attn2)
            block.forward = MethodType(_block, block)  # type: ignore[method-assign]


def _block(
    block: WanTransformerBlock,
    hidden_states: Tensor,
    encoder_hidden_states: Tensor,
    temb: Tensor,
    rotary_emb: tuple[Tensor, Tensor],
) -> Tensor:
    """:meth:`WanTransformerBlock.forward`.

    Args:
        hidden_states: ``[B, L, D]``.
        temb: what the timesteps make of the modulation, ``[B, 6, D]``, or ``[B, L, 6, D]`` if each token has its own.
    """
    modulation = (block.scale_shift_table + temb.float()).movedim(-2, 0)
    shift, scale, gate, fed_shift, fed_scale, fed_gate = modulation if temb.ndim == 4 else modulation.unsqueeze(2)
    attended = block.attn1(_modulated(hidden_states, scale, shift, block.norm1.eps), None, None, rotary_emb)
    hidden_states = _gated(hidden_states, attended, gate)
    del attended
    hidden_states = hidden_states + block.attn2(_normed(hidden_states, block.norm2), encoder_hidden_states, None, None)
    fed = feed(block.ffn, _modulated(hidden_states, fed_scale, fed_shift, block.norm3.eps))
    return _gated(hidden_states, fed, fed_gate)


def _gated(hidden_states: Tensor, added: Tensor, gate: Tensor) -> Tensor:
    return torch.addcmul(hidden_states, added, gate.to(added.dtype))


def _modulated(hidden_states: Tensor, scale: Tensor, shift: Tensor, eps: float) -> Tensor:
    """LN(x) (1 + scale) + shift; where all tokens share them, they are a norm's own weight and bias."""
    with torch.autocast("cpu", enabled=False):
        width = hidden_states.shape[-1:]
        if scale.numel() == width[0]:
            return layer_norm(hidden_states, width, 1 + scale.flatten(), shift.flatten(), eps)
        normed = layer_norm(hidden_states.float(), width, None, None, eps)
        return (normed * (1 + scale) + shift).type_as(hidden_states)


def _normed(hidden_states: Tensor, norm: nn.Module) -> Tensor:
    if not isinstance(norm, nn.LayerNorm):
        return hidden_states
    with torch.autocast("cpu", enabled=False):
        return layer_norm(hidden_states, norm.normalized_shape, norm.weight, norm.bias, norm.eps)
