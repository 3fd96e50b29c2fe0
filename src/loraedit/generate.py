"""The sampler: noise becomes latents under a condition, by the checkpoint's own scheduler."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from loraedit.errors import CacheError
from loraedit.families.base import Encoded, Expert, Family, OnStep
from loraedit.files import load_tensors, save_tensors
from loraedit.lora import load_lora

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
            level = timestep / scheduler.config.num_train_timesteps
            velocity = loader.velocity(latents, level, condition, unconditional, sampling.guidance)
            save_tensors(kept, {"velocity": velocity})
        latents = scheduler.step(velocity.to(device)[None], timestep, latents[None], return_dict=False)[0][0]
        on_step(index + 1, len(scheduler.timesteps))
    return latents.float().cpu()


def _kept_velocity(path: Path) -> Tensor | None:
    if not path.exists():
        return None
    try:
        return load_tensors(path)[0]["velocity"]
    except CacheError:
        path.unlink()
        return None


class _Experts:
    """Holds one expert's transformer at a time, with its LoRA, and loads the next when the noise level asks for it."""

    def __init__(self, family: Family, loras: dict[str, Path], device: torch.device) -> None:
        self.family, self.loras, self.device = family, loras, device
        self.expert: Expert | None = None
        self.transformer: nn.Module | None = None

    def velocity(
        self, latents: Tensor, level: Tensor, condition: Encoded, unconditional: Encoded | None, guidance: float
    ) -> Tensor:
        """v_theta with classifier-free guidance: v_u + s (v_c - v_u)."""
        transformer = self._at(float(level))
        with torch.inference_mode():
            velocity = self.family.velocity(transformer, latents, level, condition)
            if unconditional is not None:
                base = self.family.velocity(transformer, latents, level, unconditional)
                velocity = base + guidance * (velocity - base)
        return velocity.clone()

    def _at(self, level: float) -> nn.Module:
        expert = next(e for e in self.family.experts if e.low <= level or e.low == 0.0)
        if self.transformer is None or expert != self.expert:
            self.transformer = None
            self.transformer = self.family.load_transformer(expert, self.device)
            self.expert = expert
            if expert.name in self.loras:
                load_lora(self.loras[expert.name], self.family, self.transformer)
        return self.transformer
