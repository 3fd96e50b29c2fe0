"""Measures the cost of each phase of an edit by running it on the true architecture with fake tensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from loraedit.families.model_card import ModelCard
from loraedit.lora.extra import for_expert
from loraedit.lora.header import LoraHeader, read_header
from loraedit.planning.component_cost import encoder_cost, prompt_readers, vae_cost
from loraedit.planning.phase_cost import Cost, Shape, taking_turns
from loraedit.planning.skeleton import HALF
from loraedit.planning.transformer_cost import TransformerPlan
from loraedit.planning.uses import Uses
from loraedit.settings import Resources, TrainSettings
from loraedit.types import OnStep, no_step

__all__ = ["lora_bytes", "measure_cost"]


def measure_cost(
    card: ModelCard,
    shape: Shape,
    settings: TrainSettings,
    resources: Resources,
    on_step: OnStep = no_step,
    *,
    on_cpu: bool = False,
    uses: Uses | None = None,
) -> dict[str, Cost]:
    """Returns the cost of every phase that the model has, by the names of :data:`PHASES`.

    Measured figures are stored in the user's cache folder.

    Args:
        card: the model.
        shape: what its transformer sees.
        settings: rank, LoRA targets and batch size matter.
        resources: how it fits into memory.
        on_step: called with (phases done, phases in all) before each phase.
        on_cpu: measure a run on this machine's processor instead of one on an accelerator.
        uses: its transformers; None stands for the first.
    """
    uses = uses or Uses()
    experts = uses.experts or card.experts[:1]
    used = {name: TransformerPlan(card, name, shape, settings, resources, on_cpu) for name in experts}
    with_extras = {name: replace(plan, extras=_headers(uses, name, card)) for name, plan in used.items()}
    trained = with_extras if uses.extra_in_training else used
    dtype = torch.float32 if on_cpu else HALF
    measure: dict[str, Callable[[], Cost]] = {
        "text_encode": lambda: encoder_cost(card, prompt_readers(card), resources, dtype)
    }
    if card.image_frames:
        measure["image_encode"] = lambda: encoder_cost(card, ["image_encoder"], resources, dtype)
    measure["vae_encode"] = lambda: vae_cost(card, shape, resources, decode=False)
    measure["train"] = lambda: taking_turns([trained[name].train() for name in uses.trained or used])
    measure["sample"] = lambda: taking_turns([plan.sample() for plan in with_extras.values()])
    measure["vae_decode"] = lambda: vae_cost(card, shape, resources, decode=True)
    costs = {}
    for done, (name, run) in enumerate(measure.items()):
        on_step(done, len(measure))
        costs[name] = run()
    if uses.previews:
        decoding = costs["vae_decode"]
        taken = decoding.working_bytes if on_cpu else decoding.peak_bytes  # on a CPU, the VAE is in its memory anyway
        costs |= {name: costs[name].beside(taken) for name in ("train", "sample")}
    return costs


def _headers(uses: Uses, expert: str, card: ModelCard) -> tuple[LoraHeader, ...]:
    """Returns the headers of the extra LoRAs of an expert."""
    return tuple(read_header(path) for path, _ in for_expert(uses.extras, expert, card.experts))


def lora_bytes(card: ModelCard, shape: Shape, settings: TrainSettings) -> int:
    """Returns the size of one LoRA in float32."""
    return TransformerPlan(card, card.experts[0], shape, settings, Resources()).lora_bytes()
