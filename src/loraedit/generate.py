"""The sampler: noise becomes latents under a condition, by the checkpoint's own scheduler."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from loraedit.errors import InputError
from loraedit.families.base import TIMESTEPS, Encoded, Expert, Family, OnStep, batch
from loraedit.files import save_tensors, try_load_tensors
from loraedit.lora import attach_lora

__all__ = ["Sampling", "initial_noise", "sample"]


@dataclass(frozen=True)
class Sampling:
    """How to sample: denoising steps, guidance scale (1 or less is off), and the seed of the noise."""

    steps: int
    guidance: float
    seed: int


def initial_noise(shape: tuple[int, ...], seed: int) -> Tensor:
    """x0, drawn on the CPU so that every device starts alike, float32 ``[c, f, h, w]``."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def sample(
    family: Family,
    condition: Encoded,
    negative: Tensor | None,
    sampling: Sampling,
    loras: dict[str, Path],
    device: torch.device,
    steps_folder: Path,
    on_step: OnStep,
) -> Tensor:
    """Generate latents ``[c, f, h, w]`` from a condition.

    Every step's velocity is kept in ``steps_folder`` until the caller deletes it. A run that was stopped replays the
    kept ones through the scheduler, so it goes on with the same bytes, whichever scheduler it is.

    Args:
        negative: embedding of the negative prompt, needed with guidance above 1.
        loras: LoRA file by expert name; an expert without one runs bare.
    """
    c = family.card.latent_channels
    latents = initial_noise((c, *condition.condition.shape[1:]), sampling.seed).to(device)
    condition = condition.to(device)
    unconditional = None
    if sampling.guidance > 1 and negative is not None:
        unconditional = Encoded(condition.condition, negative.to(device), condition.image)
    scheduler = family.scheduler(sampling.steps, device)
    loader = _Experts(family, loras, device)
    for index, timestep in enumerate(scheduler.timesteps):
        kept = steps_folder / f"{index:04d}.safetensors"
        velocity = _kept_velocity(kept)
        if velocity is None:
            velocity = loader.velocity(latents, timestep, condition, unconditional, sampling.guidance)
            save_tensors(kept, {"velocity": velocity})
        latents = scheduler.step(velocity.to(device)[None], timestep, latents[None], return_dict=False)[0][0]
        on_step(index + 1, len(scheduler.timesteps))
    if not bool(torch.isfinite(latents).all()):
        raise InputError("Generation gave values that are no numbers. Lower --lr and train again, or lower --guidance.")
    return latents.float().cpu()


def _kept_velocity(path: Path) -> Tensor | None:
    kept = try_load_tensors(path, ("velocity",))
    return kept["velocity"] if kept else None


class _Experts:
    """Holds one expert's transformer at a time, with its LoRA, and loads the next when the noise level asks for it."""

    def __init__(self, family: Family, loras: dict[str, Path], device: torch.device) -> None:
        self.family, self.loras, self.device = family, loras, device
        self.expert: Expert | None = None
        self.transformer: nn.Module | None = None

    def velocity(
        self, latents: Tensor, timestep: Tensor, condition: Encoded, unconditional: Encoded | None, guidance: float
    ) -> Tensor:
        """v_theta with classifier-free guidance: v_u + s (v_c - v_u)."""
        transformer = self._at(float(timestep))
        with torch.inference_mode():
            velocity = self.family.velocity(transformer, latents[None], timestep[None], batch([condition]))[0]
            if unconditional is not None:
                base = self.family.velocity(transformer, latents[None], timestep[None], batch([unconditional]))[0]
                velocity = base + guidance * (velocity - base)
        return velocity.clone()

    def _at(self, timestep: float) -> nn.Module:
        expert = next(e for e in self.family.experts if e.low * TIMESTEPS <= timestep)
        if self.transformer is None or expert != self.expert:
            self.transformer = None
            self.transformer = self.family.load_transformer(expert, self.device)
            self.expert = expert
            if expert.name in self.loras:
                attach_lora(self.loras[expert.name], self.family, self.transformer)
        return self.transformer
