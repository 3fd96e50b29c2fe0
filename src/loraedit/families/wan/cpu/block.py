"""A block of Wan's transformer on a CPU: the values of diffusers' block, in fewer passes over memory.

Norms read the hidden states as they are and return them in the same precision; only inside do they use float32.
"""

from __future__ import annotations

from types import MethodType

import torch
from diffusers.models.transformers.transformer_wan import WanTransformerBlock
from torch import Tensor, nn
from torch.nn.functional import layer_norm

from loraedit.families.wan.cpu.attention import restore_attention, speed_up_attention
from loraedit.families.wan.cpu.feed_forward import feed_forward

__all__ = ["restore_block", "speed_up_block"]


def speed_up_block(block: WanTransformerBlock) -> None:
    """Lets a block run the kernels, in place."""
    speed_up_attention(block.attn1)
    speed_up_attention(block.attn2)
    block.forward = MethodType(_forward, block)  # type: ignore[method-assign]


def restore_block(block: WanTransformerBlock) -> None:
    """Lets a block run diffusers' own code again, in place."""
    restore_attention(block.attn1)
    restore_attention(block.attn2)
    vars(block).pop("forward", None)


def _forward(
    block: WanTransformerBlock,
    hidden_states: Tensor,
    encoder_hidden_states: Tensor,
    temb: Tensor,
    rotary_emb: tuple[Tensor, Tensor],
) -> Tensor:
    """Computes :meth:`WanTransformerBlock.forward`.

    Args:
        hidden_states: ``[B, L, D]``.
        temb: the modulation by timestep, ``[B, 6, D]``, or ``[B, L, 6, D]`` if each token has a timestep of its own.
    """
    modulation = (block.scale_shift_table + temb.float()).movedim(-2, 0)
    shift, scale, gate, ff_shift, ff_scale, ff_gate = modulation if temb.ndim == 4 else modulation.unsqueeze(2)
    attended = block.attn1(_modulated(hidden_states, scale, shift, block.norm1.eps), None, None, rotary_emb)
    hidden_states = _gated(hidden_states, attended, gate)
    del attended
    hidden_states = hidden_states + block.attn2(_normed(hidden_states, block.norm2), encoder_hidden_states, None, None)
    fed = feed_forward(block.ffn, _modulated(hidden_states, ff_scale, ff_shift, block.norm3.eps))
    return _gated(hidden_states, fed, ff_gate)


def _gated(hidden_states: Tensor, added: Tensor, gate: Tensor) -> Tensor:
    return torch.addcmul(hidden_states, added, gate.to(added.dtype))


def _modulated(hidden_states: Tensor, scale: Tensor, shift: Tensor, eps: float) -> Tensor:
    """Computes LN(x) (1 + scale) + shift; values that all tokens share serve as the norm's own weight and bias."""
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
