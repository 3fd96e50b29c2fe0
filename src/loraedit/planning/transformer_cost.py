"""Measures training steps and forward passes of a transformer by running them on fake tensors.

Nothing is modelled: the transformer is placed and stepped by the functions that a run uses, so blocks are swapped,
checkpoints kept and gradients formed in the same order. A few blocks of each kind are run, and the figures extrapolated
to the true depth; the weights are those of the whole transformer, placed as in a run.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from loraedit.families import open_family
from loraedit.families.base import Encoded, Family, batch
from loraedit.families.frozen_weights import kinds_of, quantise_shapes
from loraedit.families.model_card import ModelCard
from loraedit.families.registry import block_count
from loraedit.lora.adapter import attach, lora_parameters
from loraedit.lora.header import LoraHeader
from loraedit.planning.depth import from_few_blocks
from loraedit.planning.extras import adapter_bytes, extra_facts, stack_shapes
from loraedit.planning.meter import Meter, gpu_attention
from loraedit.planning.phase_cost import Cost, Shape
from loraedit.planning.skeleton import HALF, build, without_contents
from loraedit.planning.stored import Figures, stored
from loraedit.runtime.devices import converts_weights, simulated_accelerator, training_precision
from loraedit.runtime.memory import checkpoint_bytes, weights_held
from loraedit.sampling.transformers import place_for_sampling
from loraedit.settings import Resources, TrainSettings
from loraedit.training.loop import make_optimizer, place_for_training, take_step

__all__ = ["TransformerPlan"]

CPU = torch.device("cpu")


@dataclass(frozen=True)
class TransformerPlan:
    """Measures one transformer under one choice of resources.

    Attributes:
        card: the model.
        expert: the transformer.
        shape: what it sees.
        settings: rank, LoRA targets and batch size matter.
        resources: how it fits into memory.
        on_cpu: measure a run on this machine's processor instead of one on an accelerator.
        extras: the extra LoRAs that it has below that of the edit.
    """

    card: ModelCard
    expert: str
    shape: Shape
    settings: TrainSettings
    resources: Resources
    on_cpu: bool = False
    extras: tuple[LoraHeader, ...] = ()

    def train(self) -> Cost:
        """Measures one step of training a LoRA."""
        facts = self._facts(batch_size=self.settings.batch_size, **self._kept_facts())
        weights = self._weights("train")  # first, because extra LoRAs are compared with the whole model here
        return _cost(
            weights, self._stored("train", facts, lambda: from_few_blocks(self.card, self.expert, self._train_few))
        )

    def sample(self) -> Cost:
        """Measures one forward pass with a LoRA."""
        weights = self._weights("sample")
        facts = self._facts()
        return _cost(
            weights, self._stored("sample", facts, lambda: from_few_blocks(self.card, self.expert, self._sample_few))
        )

    def lora_bytes(self) -> int:
        """Returns the size of one LoRA in float32."""
        return self._weights("train")["lora"]

    # ---- measuring ---------------------------------------------------------------------------------------------------

    def _train_few(self, shallow: ModelCard) -> Figures:
        family, transformer = self._built(shallow)
        with self._fakes(transformer):
            place_for_training(family, transformer, CPU)
            sample = self._condition(family)
            optimizer = make_optimizer(transformer.train(), self.settings)
            moments = _make_moments(optimizer)
            lasting = sum(moment.nbytes for moment in moments)
            with Meter(transformer, moments) as meter:
                samples = [sample] * self.settings.batch_size
                expert = next(each for each in family.experts if each.name == self.expert)
                take_step(family, expert, transformer, samples, optimizer, self.settings, [])
        return {
            "flops": meter.flops,
            "working": meter.peak + lasting,
            "idle": meter.live + lasting,
            "checkpoints": checkpoint_bytes(transformer),
        }

    def _sample_few(self, shallow: ModelCard) -> Figures:
        family, transformer = self._built(shallow)
        with self._fakes(transformer):
            with Meter(transformer):  # answers where the LoRA is checked before it is merged
                place_for_sampling(family, transformer, CPU)
            together = batch([self._condition(family)])
            assert together.target is not None
            with Meter(transformer) as meter, torch.no_grad(), _sampling_precision():
                family.velocity(transformer, together.target, torch.empty(1), together)
        return {"flops": meter.flops, "working": meter.peak, "idle": meter.live, "checkpoints": 0}

    def _weigh(self, phase: str) -> Figures:
        """Places the whole transformer, and counts where its weights are."""
        family, transformer = self._built(self.card)
        with self._fakes(transformer):
            lora = sum(parameter.nbytes for _, parameter in lora_parameters(transformer))
            loaded = weights_held(transformer).device - adapter_bytes(transformer)
            place = place_for_training if phase == "train" else place_for_sampling
            with Meter(transformer, counts_host=True) as meter:
                place(family, transformer, CPU)
            held = weights_held(transformer)
        return {
            "device": held.device, "host": held.host, "lora": lora, "loaded": loaded, "placing": meter.peak
        }  # fmt: skip

    # ---- what is measured --------------------------------------------------------------------------------------------

    def _built(self, card: ModelCard) -> tuple[Family, Any]:
        """Returns a family, and the transformer on the meta device with its LoRAs."""
        swapped = min(self.resources.swap_blocks, block_count(card, self.expert))
        here = {"swap_blocks": swapped, "attention": None, "training_attention": None}  # a GPU's cannot run here
        family = open_family(card, self.resources.model_copy(update=here))
        transformer = build(card, self.expert, torch.float32 if self.on_cpu else HALF)
        quantise_shapes(transformer, kinds_of(card, self.expert, self.resources.weights))
        if self.on_cpu:
            family.speed_up(transformer, CPU)
        stack_shapes(transformer, self.extras, few=card is not self.card)
        with torch.device("meta"):
            attach(transformer, family.lora_targets(self.settings.lora_targets), self.settings.rank, seed=0)
        return family, transformer

    @contextmanager
    def _fakes(self, transformer: nn.Module) -> Iterator[None]:
        """Replaces a transformer's tensors by fake ones, and lets it compute as on the device of the plan."""
        mode = FakeTensorMode(allow_non_fake_inputs=True)
        without_contents(transformer, mode)
        with ExitStack() as stack:
            stack.enter_context(mode)
            if not self.on_cpu:
                stack.enter_context(simulated_accelerator())
                stack.enter_context(gpu_attention())
            yield

    def _condition(self, family: Family) -> Encoded:
        shapes = family.encoded_shapes(self.shape.latent(self.card))
        return Encoded(**{name: torch.empty(sizes) for name, sizes in shapes.items()})

    def _weights(self, phase: str) -> Figures:
        facts = [self._lora_facts(), self._store_facts(), self.resources.swap_blocks, self.on_cpu]
        return self._stored(f"{phase}-weights", facts, lambda: self._weigh(phase))

    def _stored(self, kind: str, facts: Any, measure: Any) -> Figures:
        return stored(self.card, self.expert, kind, facts, measure)

    def _facts(self, **others: Any) -> dict[str, Any]:
        shapes = open_family(self.card).encoded_shapes(self.shape.latent(self.card))
        swaps = self.resources.swap_blocks > 0
        return {
            "shape": asdict(self.shape), "inputs": shapes, "lora": self._lora_facts(), "swaps": swaps,
            "weights": self._store_facts(), "on_cpu": self.on_cpu, **others,
        }  # fmt: skip

    def _store_facts(self) -> Any:
        """Returns what determines how the weights are stored."""
        return self.resources.weights, self.card.kinds(self.expert)

    def _kept_facts(self) -> dict[str, bool]:
        return {"recomputes": self.resources.recomputes, "hosted": self.resources.offload_checkpoints}

    def _lora_facts(self) -> dict[str, Any]:
        extras = [extra_facts(header) for header in self.extras]
        return {"rank": self.settings.rank, "targets": self.settings.lora_targets, "extras": extras}


def _cost(weights: Figures, found: Figures) -> Cost:
    """Puts together where the weights of a transformer are, and what running it takes besides."""
    return Cost(
        flops=found["flops"],
        weights_bytes=weights["device"],
        working_bytes=found["working"],
        host_bytes=weights["host"],
        checkpoint_bytes=found["checkpoints"],
        loaded_bytes=weights["loaded"],
        placing_bytes=weights["placing"],
        idle_bytes=found["idle"],
    )


def _sampling_precision() -> AbstractContextManager[None]:
    return training_precision(CPU) if converts_weights(CPU) else nullcontext()


def _make_moments(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    """Gives an optimiser the moments that it has from the first step on, and returns them."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad()
    return [value for state in optimizer.state.values() for value in state.values()]
