"""Sampling steps of the large model: time, attention backends, LoRAs, and diffusers' velocity for the same input."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from loraedit.errors import InputError
from loraedit.families import open_family
from loraedit.families.base import TIMESTEPS, Encoded, tokens_of
from loraedit.lora.adapter import attach, save_lora
from loraedit.lora.extra import ExtraLora
from loraedit.planning.gpus import known_gpu
from loraedit.runtime.memory import place
from loraedit.sampling.transformers import Held, Transformers
from loraedit.settings import Resources
from scripts.gpu_day.bench import Bench, free, now
from scripts.gpu_day.measuring import Peak, cosine, device_name
from scripts.gpu_day.plans import seconds_on
from scripts.gpu_day.random_weights import give_effect, random_sample, random_transformer
from scripts.gpu_day.stage import Finding, Stage, alike, near, told

__all__ = ["SAMPLING_STAGE", "Denoiser"]

BACKENDS = ("native", "_native_cudnn", "_native_flash", "flash", "_flash_3", "sage", "xformers")
"""Attention backends to try, by diffusers' names."""

GUIDANCE = 5.0
LEVEL = 0.7


class Denoiser:
    """Predicts velocities for noise, as the sampler does.

    Args:
        bench: the model and the device.
        frames: of the clip.
        held: the transformer to use; without one, it is built with the LoRAs.
        lora: file of the edit's LoRA, or None.
        extras: extra LoRAs.

    Attributes:
        transformer: the transformer, once it is loaded.
        latents: the noise ``[c, f, h, w]``.
        timestep: ``[]``.
        condition: the condition.
    """

    def __init__(
        self, bench: Bench, frames: int, held: Held | None = None, lora: Path | None = None,
        extras: Sequence[ExtraLora] = (),
    ) -> None:  # fmt: skip
        family: Any = open_family(bench.card, Resources())
        family.load_transformer = lambda *_: self._build(bench)
        self.transformer: Any = held.transformer if held else None
        self.condition = random_sample(bench, frames, bench.scale.small)
        assert self.condition.target is not None
        self.latents, self.timestep = self.condition.target, torch.tensor(LEVEL * TIMESTEPS, device=bench.device)
        loras = {} if lora is None else {family.experts[0].name: lora}
        tokens = tokens_of(bench.card, self.latents.shape[1:])
        self._device = bench.device
        self._transformers = Transformers(family, loras, extras, bench.device, 0.0, tokens, held)

    def _build(self, bench: Bench) -> Any:
        self.transformer = random_transformer(bench, Resources())
        return self.transformer

    def velocity(self, guided: bool = False) -> Tensor:
        """Returns the velocity ``[c, f, h, w]``, with or without guidance."""
        blank = Encoded(**{**self.condition.tensors(), "text": 0 * self.condition.text}) if guided else None
        return self._transformers.velocity(self.latents, self.timestep, self.condition, blank, GUIDANCE)

    def pass_s(self, guided: bool = False) -> float:
        """Returns the time of a forward pass; a guided step has two."""
        start = now(self._device)
        self.velocity(guided)
        return (now(self._device) - start) / (2 if guided else 1)


def _run(bench: Bench) -> Iterator[Finding]:
    transformer = random_transformer(bench, Resources())
    held = Held(open_family(bench.card).experts[0], transformer)
    yield from _guided(bench, held)
    yield from _backends(bench, held)
    path = _write_lora(bench, transformer)
    del transformer, held
    free()
    yield from _with_loras(bench, path)


def _guided(bench: Bench, held: Held) -> Iterator[Finding]:
    gpu, scale = known_gpu(device_name(bench.device)), bench.scale
    for frames in (scale.short, scale.long):
        denoiser = Denoiser(bench, frames, held)
        if frames == scale.short:
            close = cosine(denoiser.velocity(), _plain(held, denoiser))
            yield alike(f"{frames} frames: velocity against diffusers", close)
        planned_s = seconds_on(gpu, bench.plans.of(frames, scale.small)["sample"].flops)
        yield told(f"{frames} frames: a pass of a guided step", denoiser.pass_s(guided=True), "s", planned_s)


@torch.inference_mode()
def _plain(held: Held, denoiser: Denoiser) -> Tensor:
    """Returns the velocity as diffusers' pipeline asks the transformer for it."""
    condition = denoiser.condition
    assert condition.image is not None
    velocity: Tensor = held.transformer(
        hidden_states=torch.cat([denoiser.latents, condition.condition])[None].bfloat16(),
        timestep=denoiser.timestep.expand(1),
        encoder_hidden_states=condition.text[None].bfloat16(),
        encoder_hidden_states_image=condition.image[None].bfloat16(),
        return_dict=False,
    )[0]
    return velocity[0]


def _backends(bench: Bench, held: Held) -> Iterator[Finding]:
    denoiser = Denoiser(bench, bench.scale.short, held)
    usual, seconds = denoiser.velocity(), denoiser.pass_s()
    for backend in BACKENDS:
        try:
            place(held.transformer, Resources(), bench.device, backend)
            near_usual = cosine(denoiser.velocity(), usual)
            taken = denoiser.pass_s()
        except (InputError, RuntimeError, ValueError) as error:
            yield told(f"attention {backend}", None, note=f"does not run here: {str(error).splitlines()[0][:80]}")
            continue
        note = f"{seconds / taken:.2f} times as fast as the usual one"
        yield told(f"attention {backend}: a pass", taken, "s", note=note)
        yield alike(f"attention {backend}: velocity", near_usual)
    place(held.transformer, Resources(), bench.device, "native")


def _write_lora(bench: Bench, transformer: Any) -> Path:
    """Writes a random LoRA, and leaves it on the transformer."""
    family, path = open_family(bench.card), bench.folder / "lora.safetensors"
    attach(transformer, family.lora_targets("all"), bench.scale.rank, seed=0)
    give_effect(transformer)
    save_lora(path, family, transformer, {}, torch.bfloat16)
    return path


def _with_loras(bench: Bench, path: Path) -> Iterator[Finding]:
    scale = bench.scale
    for name, extras in (("one LoRA", ()), ("two LoRAs", (ExtraLora(path, 0.5),))):
        denoiser = Denoiser(bench, scale.short, None, path, extras)
        denoiser.velocity()
        with Peak(bench.device, denoiser.transformer) as peak:
            seconds = denoiser.pass_s()
        yield told(f"{name}: a pass", seconds, "s")
        if not extras:
            yield near(f"{name}: peak", peak.bytes, bench.plans.of(scale.short, scale.small)["sample"].peak_bytes)
        del denoiser
        free()


def _plan(bench: Bench) -> None:
    for frames in (bench.scale.short, bench.scale.long):
        bench.plans.of(frames, bench.scale.small)


SAMPLING_STAGE = Stage(
    "sampling", 120, "sampling steps with guidance at both lengths, attention backends, one and two LoRAs",
    "the velocity's cosine with diffusers' and between backends is above 0.99; the peak is within 10 % of the plan",
    _run, _plan,
)  # fmt: skip
