"""The sampler: noise becomes latents under a condition, by the checkpoint's own scheduler."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from diffusers.hooks.first_block_cache import FirstBlockCacheConfig
from torch import Tensor

from loraedit.diffusion.flow_matching import add_noise
from loraedit.errors import InputError
from loraedit.families.base import TIMESTEPS, Encoded, Expert, Family, batch, tokens_of
from loraedit.lora.adapter import as_autocast, attach_lora, match_precision, merge, stack
from loraedit.lora.extra import ExtraLora, for_expert
from loraedit.runtime.devices import autocasts, training_precision
from loraedit.runtime.distributed import split_tokens
from loraedit.runtime.memory import place
from loraedit.runtime.ranks import leads
from loraedit.settings import ResolvedSettings, SamplingSettings
from loraedit.storage.files import save_tensors, try_load_tensors
from loraedit.types import OnStep, no_step

__all__ = ["Held", "experts_asked", "experts_trained", "initial_noise", "sample"]

OnEstimate = Callable[[Tensor, int, int], None]
"""Called after each step with (what the latents will become, as this step has it, steps done, steps in all)."""


@dataclass(frozen=True)
class Held:
    """A transformer that is on its device already, with its LoRA, and the expert that it is."""

    expert: Expert
    transformer: Any


def initial_noise(shape: tuple[int, ...], seed: int) -> Tensor:
    """x0, drawn on the CPU so that every device starts alike, float32 ``[c, f, h, w]``."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def sample(
    family: Family,
    condition: Encoded,
    negative: dict[str, Tensor] | None,
    sampling: SamplingSettings,
    loras: dict[str, Path],
    device: torch.device,
    steps_folder: Path,
    on_step: OnStep = no_step,
    extras: Sequence[ExtraLora] = (),
    on_estimate: OnEstimate | None = None,
    held: Held | None = None,
) -> Tensor:
    """Generate latents ``[c, f, h, w]`` from a condition.

    Every step's velocity is kept in ``steps_folder`` until the caller deletes it. A run that was stopped replays the
    kept ones through the scheduler, so it goes on with the same bytes, whichever scheduler it is. With a step cache,
    which is lost with the process, it starts anew.

    Args:
        negative: what :meth:`Family.embed_prompt` makes of the negative prompt; with guidance above 1 needed by a
            model that does not read the guidance scale itself.
        loras: LoRA file by expert name; an expert without one runs bare.
        extras: further LoRAs, laid under those.
        held: sample with this transformer alone. What it says at its last step, x_t - t v, is the result: if another
            expert follows, an estimate.
    """
    c = family.card.latent_channels
    noise = initial_noise((c, *condition.condition.shape[1:]), sampling.seed).to(device)
    if family.card.embeds_guidance:
        condition, negative = replace(condition, guidance=torch.tensor(sampling.guidance)), None
    condition = condition.to(device)
    shown, kept_zone = condition.condition[-c:], condition.keep(c) == 1
    unconditional = None
    if sampling.guidance > 1 and negative is not None:
        unconditional = replace(condition, **{name: value.to(device) for name, value in negative.items()})
    schedule = _schedule(family, sampling, noise.shape, device)
    scheduler, levels = schedule.scheduler, schedule.levels
    latents = noise if schedule.whole else add_noise(shown, noise, levels[0])
    loader = _Experts(
        family, loras, extras, device, sampling.step_cache, tokens_of(family.card, condition.condition.shape[1:]), held
    )
    estimate = latents
    for index, timestep in enumerate(schedule.timesteps):
        if held is not None and held.expert != _expert_at(family, float(timestep)):
            return estimate.float().cpu()
        kept = steps_folder / f"{index:04d}.safetensors"
        velocity = None if sampling.step_cache else _kept_velocity(kept)
        if velocity is None:
            velocity = loader.velocity(latents, timestep, condition, unconditional, sampling.guidance)
            _check_finite(velocity)  # before it is kept: a run that goes on would only find it again
            if leads():
                save_tensors(kept, {"velocity": velocity}, lasting=False)  # a damaged one is made again
        velocity = velocity.to(device)
        estimate = latents - levels[index] * velocity
        latents = scheduler.step(velocity[None], timestep, latents[None], return_dict=False)[0][0]
        if sampling.blend_latents or family.card.mask == "tokens":  # it predicts nothing for kept tokens
            latents = torch.where(kept_zone, add_noise(shown, noise, levels[index + 1]), latents)
        if on_estimate is not None:
            on_estimate(estimate, index + 1, len(levels) - 1)
        on_step(index + 1, len(levels) - 1)
    _check_finite(latents)
    return latents.float().cpu()


def _check_finite(values: Tensor) -> None:
    if not bool(torch.isfinite(values).all()):
        raise InputError("Generation gave values that are no numbers. Lower --lr and train again, or lower --guidance.")


@dataclass(frozen=True)
class _Schedule:
    """The steps of a sampling.

    Attributes:
        scheduler: set to begin with the first of them.
        timesteps: of each.
        levels: the noise level before each, then 0.
        whole: whether it begins with noise alone.
    """

    scheduler: Any
    timesteps: list[Tensor]
    levels: list[float]
    whole: bool


def _schedule(family: Family, sampling: SamplingSettings, shape: Sequence[int], device: torch.device) -> _Schedule:
    """As many steps as are asked for, at or below the strength: the last ones of the shortest schedule with so many.

    A single step is always the one from noise alone. Where not even a schedule of ``TIMESTEPS`` steps has so many
    there, as with a tiny strength, those that it has are taken.
    """
    steps = sampling.sampling_steps

    def built(total: int) -> Any:
        return family.scheduler(total, shape, device)

    def below(scheduler: Any) -> int:
        return sum(float(timestep) / TIMESTEPS <= sampling.strength for timestep in scheduler.timesteps)

    if sampling.strength == 1 or steps == 1:
        scheduler, first = built(steps), 0
    else:
        totals = range(steps, max(steps, TIMESTEPS))
        total = steps + bisect_left(totals, steps, key=lambda total: below(built(total)))
        scheduler = built(total)
        first = total - max(1, min(steps, below(scheduler)))
    scheduler.set_begin_index(first)
    timesteps = list(scheduler.timesteps[first:])
    return _Schedule(scheduler, timesteps, [*(float(each) / TIMESTEPS for each in timesteps), 0.0], first == 0)


def experts_asked(family: Family, sampling: SamplingSettings) -> tuple[Expert, ...]:
    """The experts that a sampling asks, in this order."""
    if len(family.experts) == 1:
        return family.experts
    anything = (family.card.latent_channels, 1, 1, 1)  # no model with two has a schedule that depends on the shape
    timesteps = _schedule(family, sampling, anything, torch.device("cpu")).timesteps
    return tuple(dict.fromkeys(_expert_at(family, float(timestep)) for timestep in timesteps))


def experts_trained(family: Family, settings: ResolvedSettings) -> tuple[Expert, ...]:
    """Those of them that serve noise levels that are to be trained on.

    Raises:
        InputError: there are none.
    """
    low = settings.min_noise_level
    trained = tuple(each for each in experts_asked(family, settings.sampling()) if low < each.high)
    if not trained:
        raise InputError(f"No noise level above {low:g} is sampled. Lower --min-noise-level, or raise --strength.")
    return trained


def _expert_at(family: Family, timestep: float) -> Expert:
    """The expert that serves a timestep."""
    return next(each for each in family.experts if each.low * TIMESTEPS <= timestep)


def _kept_velocity(path: Path) -> Tensor | None:
    kept = try_load_tensors(path, ("velocity",))
    return kept["velocity"] if kept else None


class _Experts:
    """Holds one expert's transformer at a time, with its LoRAs, and loads the next when the noise level asks for it."""

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
        self.family, self.loras, self.extras, self.device, self.step_cache = family, loras, extras, device, step_cache
        self.tokens = tokens
        self.low = device.type == "cpu" and (held is not None or autocasts(device))  # elsewhere the weights decide
        self.expert: Expert | None = held.expert if held else None
        self.transformer: Any = held.transformer if held else None

    def velocity(
        self, latents: Tensor, timestep: Tensor, condition: Encoded, unconditional: Encoded | None, guidance: float
    ) -> Tensor:
        """v_theta with classifier-free guidance: v_u + s (v_c - v_u)."""
        transformer = self._at(float(timestep))
        with torch.inference_mode(), training_precision(self.device) if self.low else nullcontext():
            velocity = self._pass(transformer, "condition", latents, timestep, condition)
            if unconditional is not None:
                base = self._pass(transformer, "no condition", latents, timestep, unconditional)
                velocity = base + guidance * (velocity - base)
        return velocity.clone()

    def _pass(self, transformer: Any, what: str, latents: Tensor, timestep: Tensor, condition: Encoded) -> Tensor:
        """One forward pass; the step cache keeps what belongs to each condition apart."""
        with transformer.cache_context(what) if self.step_cache else nullcontext():
            return self.family.velocity(transformer, latents[None], timestep[None], batch([condition]))[0]

    def _at(self, timestep: float) -> Any:
        expert = _expert_at(self.family, timestep)
        if self.transformer is None or expert != self.expert:
            self.transformer = None
            self.transformer = self.family.load_transformer(expert, self.device)
            self.expert = expert
            stack(self.transformer, for_expert(self.extras, expert.name, self.family.card.experts))
            if expert.name in self.loras:
                attach_lora(self.loras[expert.name], self.family, self.transformer)
                match_precision(self.transformer, self.transformer.dtype)
            if self.device.type == "cpu":
                merge(self.transformer)
            if self.low:
                as_autocast(self.transformer)
            place(self.transformer, self.family.resources, self.device)
            if self.family.splits_tokens:
                split_tokens(self.transformer, [self.tokens])
            if self.step_cache:
                self.transformer.enable_cache(FirstBlockCacheConfig(self.step_cache))
        return self.transformer
