"""The transformers of a sampling: one expert at a time, with its LoRAs, on the device."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.hooks.first_block_cache import FirstBlockCacheConfig
from torch import Tensor

from loraedit.families.base import Encoded, Expert, Family, batch
from loraedit.lora.adapter import as_autocast, attach_lora, lora_parameters, match_precision, merge, stack
from loraedit.lora.extra import ExtraLora, for_expert
from loraedit.runtime.devices import converts_weights, on_cpu, training_precision
from loraedit.runtime.distributed import split_tokens
from loraedit.runtime.memory import place
from loraedit.sampling.schedule import expert_at

__all__ = ["Held", "Transformers", "place_for_sampling"]


@dataclass(frozen=True)
class Held:
    """A transformer that is already on its device with its LoRA, and the expert that it is."""

    expert: Expert
    transformer: Any


def place_for_sampling(family: Family, transformer: Any, device: torch.device) -> None:
    """Brings a transformer with its LoRAs to the device, in the precision of the sampling, in place."""
    if next(lora_parameters(transformer), None) is not None:
        match_precision(transformer, transformer.dtype)
    if on_cpu(device):
        merge(transformer)
    if converts_weights(device):
        as_autocast(transformer)
    place(transformer, family.resources, device, family.resources.attention)


class Transformers:
    """Predicts velocities with the expert of each timestep. Loads the next expert when the noise level reaches it.

    Args:
        family: the model.
        loras: LoRA file by expert name; an expert without one runs without a LoRA.
        extras: extra LoRAs below those.
        device: where to compute.
        step_cache: threshold of the First Block Cache; 0 is off.
        tokens: sequence length of the latents.
        held: the transformer to begin with; None loads it.
    """

    def __init__(
        self,
        family: Family,
        loras: dict[str, Path],
        extras: Sequence[ExtraLora],
        device: torch.device,
        step_cache: float,
        tokens: int,
        held: Held | None = None,
    ) -> None:
        self._family, self._loras, self._extras, self._device = family, loras, extras, device
        self._step_cache, self._tokens = step_cache, tokens
        # On a CPU that trains in bfloat16, sampling does too. Elsewhere the precision is that of the weights.
        self._bfloat16 = converts_weights(device) or (on_cpu(device) and held is not None)
        self._expert: Expert | None = held.expert if held else None
        self._transformer: Any = held.transformer if held else None

    def velocity(
        self, latents: Tensor, timestep: Tensor, condition: Encoded, unconditional: Encoded | None, guidance: float
    ) -> Tensor:
        """Predicts the velocity with classifier-free guidance: v_u + s (v_c - v_u).

        Args:
            latents: noisy latents ``[c, f, h, w]``.
            timestep: ``[]``, 1000 t.
            condition: the condition.
            unconditional: the condition with the negative prompt; None is without guidance.
            guidance: the guidance scale s.
        """
        transformer = self._transformer_at(float(timestep))
        with torch.inference_mode(), training_precision(self._device) if self._bfloat16 else nullcontext():
            velocity = self._pass(transformer, "condition", latents, timestep, condition)
            if unconditional is not None:
                base = self._pass(transformer, "no condition", latents, timestep, unconditional)
                velocity = base + guidance * (velocity - base)
        return velocity.clone()

    def _pass(self, transformer: Any, name: str, latents: Tensor, timestep: Tensor, condition: Encoded) -> Tensor:
        """Runs one forward pass. The step cache keeps the passes of different names apart."""
        with transformer.cache_context(name) if self._step_cache else nullcontext():
            return self._family.velocity(transformer, latents[None], timestep[None], batch([condition]))[0]

    def _transformer_at(self, timestep: float) -> Any:
        """Returns the transformer of a timestep, and loads it if it is another than before."""
        expert = expert_at(self._family, timestep)
        if self._transformer is None or expert != self._expert:
            self._transformer = None  # frees the memory first
            self._transformer, self._expert = self._load(expert), expert
        return self._transformer

    def _load(self, expert: Expert) -> Any:
        """Loads a transformer, attaches its LoRAs and places it on the device."""
        family = self._family
        transformer: Any = family.load_transformer(expert, self._device)
        stack(transformer, for_expert(self._extras, expert.name, family.card.experts))
        if expert.name in self._loras:
            attach_lora(self._loras[expert.name], family, transformer)
        place_for_sampling(family, transformer, self._device)
        if family.splits_tokens:
            split_tokens(transformer, [self._tokens])
        if self._step_cache:
            transformer.enable_cache(FirstBlockCacheConfig(self._step_cache))
        return transformer
