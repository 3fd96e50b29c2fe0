"""CPU kernels for the blocks of Wan's transformer: the values of diffusers' own blocks, in less time and memory.

This module is the only switch. :func:`cpu_kernels_apply` decides, :func:`use_cpu_kernels` turns the kernels on for one
transformer, and :func:`use_plain_blocks` turns them off again. Each kernel replaces a piece of diffusers:

| module | replaces |
|---|---|
| ``block`` | ``WanTransformerBlock.forward`` |
| ``attention`` | ``WanAttnProcessor`` |
| ``feed_forward`` | ``FeedForward.forward``, within the block |

Values and gradients equal those of diffusers up to rounding; ``tests/families/test_wan_cpu.py`` compares them. Set the
environment variable ``LORAEDIT_CPU_KERNELS=off`` to run diffusers' blocks, for example to find out where a difference
comes from.
"""

from __future__ import annotations

import os

import torch
from diffusers import WanTransformer3DModel
from diffusers.models.transformers.transformer_wan import WanTransformerBlock
from torch import nn

from loraedit.families.wan.cpu.block import restore_block, speed_up_block
from loraedit.runtime.memory import blocks
from loraedit.settings import Resources

__all__ = ["SWITCH", "cpu_kernels_apply", "use_cpu_kernels", "use_plain_blocks"]

SWITCH = "LORAEDIT_CPU_KERNELS"
"""The environment variable; ``off`` keeps diffusers' own blocks."""


def cpu_kernels_apply(device: torch.device, resources: Resources) -> bool:
    """Returns whether a transformer on a device should run the kernels.

    It should not where the user chose an attention backend, which the kernels would bypass, or where blocks are
    compiled, which fuses the same steps.
    """
    if os.environ.get(SWITCH) == "off":
        return False
    chosen = resources.attention or resources.training_attention or resources.compile_blocks
    return device.type == "cpu" and not chosen


def use_cpu_kernels(transformer: nn.Module) -> None:
    """Lets the blocks of a transformer run the kernels, in place. Changes nothing but diffusers' Wan transformer."""
    if isinstance(transformer, WanTransformer3DModel):
        for block in blocks(transformer):
            assert isinstance(block, WanTransformerBlock)
            speed_up_block(block)


def use_plain_blocks(transformer: nn.Module) -> None:
    """Lets the blocks run diffusers' own code again, in place."""
    if isinstance(transformer, WanTransformer3DModel):
        for block in blocks(transformer):
            assert isinstance(block, WanTransformerBlock)
            restore_block(block)
