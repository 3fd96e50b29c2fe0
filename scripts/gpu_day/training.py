"""Training steps of the large model: memory, speed, and the same steps by a plain loop of diffusers and peft."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from peft import LoraConfig
from torch import Tensor, nn

from loraedit.families import open_family
from loraedit.lora.adapter import lora_parameters
from loraedit.planning.gpus import known_gpu
from loraedit.settings import Resources
from scripts.gpu_day.bench import Bench, free, now
from scripts.gpu_day.measuring import Peak, cosine, device_name
from scripts.gpu_day.plans import KEPT, Planned, seconds_on
from scripts.gpu_day.random_weights import give_effect, random_sample, random_transformer
from scripts.gpu_day.stage import Finding, Stage, alike, near, no_more, told
from scripts.gpu_day.steps import Given, Steps, gradients_kept, take_steps

__all__ = ["LONG_STAGE", "PLAIN_STAGE", "SPEED", "TRAINING_STAGE"]

SPEED = "speed of training"
"""The measure to which the efficiency of a card is fitted."""

OFFLOADED = KEPT.model_copy(update={"offload_checkpoints": True})
SLOWER = 1.05
"""The most time that a step may take, against the plain loop."""


def findings_of(bench: Bench, name: str, steps: Steps, planned: Planned) -> Iterator[Finding]:
    """Yields time, speed and peak of training steps."""
    gpu = known_gpu(device_name(bench.device))
    yield near(f"{name}: peak", steps.peak_bytes, planned.peak_bytes)
    yield told(f"{name}: a step", steps.step_s, "s", seconds_on(gpu, planned.flops), f"the first {steps.first_s:.2f} s")
    published = None if gpu is None else gpu.tflops * gpu.efficiency.share
    yield told(f"{name}: {SPEED}", planned.flops / steps.step_s / 1e12, "TFLOP/s", published)


def _train(bench: Bench) -> Iterator[Finding]:
    scale = bench.scale
    steps = take_steps(bench, KEPT, scale.short, scale.steps)
    yield from findings_of(bench, f"{scale.short} frames", steps, bench.plans.of(scale.short, scale.small)["train"])


def _train_long(bench: Bench) -> Iterator[Finding]:
    scale = bench.scale
    clip = f"{scale.long} frames"
    for name, resources in ((clip, KEPT), (f"{clip}, checkpoints on the host", OFFLOADED)):
        steps = take_steps(bench, resources, scale.long, 1)
        yield from findings_of(bench, name, steps, bench.plans.of(scale.long, scale.small, resources)["train"])
        yield told(f"{name}: host memory", steps.host_bytes / 1e9, "GB")
        free()


def _plan_long(bench: Bench) -> None:
    for resources in (KEPT, OFFLOADED):
        bench.plans.of(bench.scale.long, bench.scale.small, resources)


# ---- the plain loop --------------------------------------------------------------------------------------------------


def _compare(bench: Bench) -> Iterator[Finding]:
    ours = take_steps(bench, KEPT, bench.scale.short, bench.scale.steps)
    free()
    plain = _plain_steps(bench, ours.given)
    yield alike("gradients against a plain loop", cosine(ours.gradients, plain.gradients))
    yield no_more("time of a step against a plain loop", ours.step_s / plain.step_s, SLOWER, bench.on_gpu)
    yield told("peak against a plain loop", ours.peak_bytes / plain.peak_bytes)


def _plain_steps(bench: Bench, given: Given) -> Steps:
    """Takes steps as a script with diffusers and peft does, the first on what our model was given."""
    transformer, rank = random_transformer(bench, Resources()), bench.training.rank
    targets = list(open_family(bench.card).lora_targets("all"))
    transformer.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=targets))
    for _, parameter in lora_parameters(transformer):
        parameter.data = parameter.data.float()
    give_effect(transformer)
    transformer.enable_gradient_checkpointing()
    transformer.train()
    optimizer = torch.optim.AdamW([each for _, each in lora_parameters(transformer)], bench.training.lr)
    gradients, times = gradients_kept(optimizer), [now(bench.device)]
    with Peak(bench.device, transformer) as peak:
        for _ in range(1 + bench.scale.steps):
            _plain_loss(bench, transformer, given).backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(transformer.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            times.append(now(bench.device))
    step_s = (times[-1] - times[1]) / bench.scale.steps
    return Steps(times[1] - times[0], step_s, peak.bytes, 0, gradients[0], given)


def _plain_loss(bench: Bench, transformer: Any, given: Given) -> Tensor:
    sample, level = random_sample(bench, bench.scale.short, bench.scale.small), given.timesteps / 1000
    assert sample.target is not None and sample.image is not None
    noise = (given.latents - (1 - level) * sample.target) / level
    with torch.autocast(bench.device.type, torch.bfloat16):
        velocity = transformer(
            hidden_states=torch.cat([given.latents, sample.condition[None]], 1).bfloat16(),
            timestep=given.timesteps,
            encoder_hidden_states=sample.text[None].bfloat16(),
            encoder_hidden_states_image=sample.image[None].bfloat16(),
            return_dict=False,
        )[0]
    return nn.functional.mse_loss(velocity.float(), noise - sample.target)


TRAINING_STAGE = Stage(
    "training", 60, "training steps of a short clip, with checkpointing", "the peak is within 10 % of the plan", _train,
    lambda bench: bench.plans.of(bench.scale.short, bench.scale.small),
)  # fmt: skip
PLAIN_STAGE = Stage(
    "plain-loop", 90, "the same steps by a plain loop of diffusers and peft, on the same noise",
    f"the gradients' cosine is above 0.99, and a step takes at most {SLOWER} times as long", _compare,
)  # fmt: skip
LONG_STAGE = Stage(
    "long-clip", 90, "training steps of a long clip, plain and with checkpoints in host memory",
    "each peak is within 10 % of its plan", _train_long, _plan_long,
)  # fmt: skip
