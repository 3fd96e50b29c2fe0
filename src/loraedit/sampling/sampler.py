"""The sampler: turns noise into latents under a condition, with any of diffusers' deterministic schedulers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from loraedit.errors import InputError
from loraedit.families.base import Encoded, Family, tokens_of
from loraedit.lora.extra import ExtraLora
from loraedit.runtime.ranks import leads
from loraedit.sampling.anchors import Anchors
from loraedit.sampling.schedule import expert_at, make_schedule
from loraedit.sampling.transformers import Held, Transformers
from loraedit.settings import SamplingSettings
from loraedit.storage.files import save_tensors, try_load_tensors
from loraedit.types import OnStep, no_step

__all__ = ["initial_noise", "sample"]

OnEstimate = Callable[[Tensor, int, int], None]
"""Called after each step with (the final latents as this step predicts them, steps done, steps in all)."""


def initial_noise(shape: tuple[int, ...], seed: int) -> Tensor:
    """Draws x0 on the CPU, so that all devices start from equal noise, float32 ``[c, f, h, w]``."""
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
    shown: Tensor | None = None,
) -> Tensor:
    """Generates latents ``[c, f, h, w]`` from noise, with a condition.

    Below strength 1, cells that show something are held to it as long as the noise level is above the strength
    (:class:`Anchors`). All other cells are the model's own from pure noise on.

    The velocity of every step is saved in ``steps_folder`` until the caller deletes it. An interrupted run passes the
    saved velocities through the scheduler again, whichever scheduler it is, and ends with the same bytes. A step cache
    is lost with the process, so a run with one starts again.

    Args:
        family: the model.
        condition: the encoded condition.
        negative: the embedding of the negative prompt. Guidance above 1 needs it, unless the model reads
            the guidance scale itself.
        sampling: how to sample.
        loras: LoRA file by expert name; an expert without one runs without a LoRA.
        device: where to compute.
        steps_folder: folder of the saved velocities.
        on_step: called after each step.
        extras: extra LoRAs below those of ``loras``.
        on_estimate: called after each step.
        held: sample with this transformer alone. If another expert follows, the result is an estimate: the latents
            x_t - t v of the transformer's last step.
        shown: bool ``[1, f, h, w]``, the cells that show something to start from; None means no cell.
    """
    condition, unconditional = _guided(family, condition.to(device), negative, sampling.guidance)
    anchors = Anchors.of(family, condition, sampling, shown)
    latents = initial_noise(tuple(anchors.target.shape), sampling.seed).to(device)
    schedule = make_schedule(family, sampling, latents.shape, device)
    tokens = tokens_of(family.card, condition.condition.shape[1:])
    transformers = Transformers(family, loras, extras, device, sampling.step_cache, tokens, held)

    estimate = latents
    for index, timestep in enumerate(schedule.timesteps):
        if held is not None and held.expert != expert_at(family, float(timestep)):
            return estimate.float().cpu()
        predict = partial(transformers.velocity, latents, timestep, condition, unconditional, sampling.guidance)
        predicted = _saved_or_predicted(steps_folder, index, predict, not sampling.step_cache).to(device)
        velocity = anchors.hold(latents, predicted, schedule, index)
        estimate = latents - schedule.levels[index] * velocity
        latents = schedule.step(index, latents, velocity)
        if on_estimate is not None:
            on_estimate(estimate, index + 1, len(schedule))
        on_step(index + 1, len(schedule))
    _check_finite(latents)
    return latents.float().cpu()


def _guided(
    family: Family, condition: Encoded, negative: dict[str, Tensor] | None, guidance: float
) -> tuple[Encoded, Encoded | None]:
    """Returns the condition, and the unconditional one if guidance needs a second pass."""
    device = condition.condition.device
    if family.card.embeds_guidance:
        return replace(condition, guidance=torch.tensor(guidance, device=device)), None
    if guidance <= 1 or negative is None:
        return condition, None
    return condition, replace(condition, **{name: value.to(device) for name, value in negative.items()})


def _saved_or_predicted(folder: Path, index: int, predict: Callable[[], Tensor], reuse: bool) -> Tensor:
    """Returns the velocity of a step: the saved one if reuse is allowed, or a new one, which is then saved."""
    path = folder / f"{index:04d}.safetensors"
    saved = try_load_tensors(path, ("velocity",)) if reuse else None
    if saved is not None:
        return saved["velocity"]
    velocity = predict()
    _check_finite(velocity)  # before it is saved, because the next run would only find a bad one again
    if leads():
        save_tensors(path, {"velocity": velocity}, lasting=False)  # a damaged file is computed again
    return velocity


def _check_finite(values: Tensor) -> None:
    if not bool(torch.isfinite(values).all()):
        raise InputError(
            "Generation gave values that are not finite numbers. Lower --lr and train again, or lower --guidance."
        )
