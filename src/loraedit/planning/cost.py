"""Measures the cost of each phase of an edit by running it on the true architecture with fake tensors."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import peft
import torch
import transformers
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from loraedit.diffusion.flow_matching import flow_matching_loss
from loraedit.families import open_family
from loraedit.families.base import Encoded, Family, batch, tokens_of
from loraedit.families.frozen_weights import kinds_of, quantise_shapes
from loraedit.families.model_card import ModelCard
from loraedit.lora.adapter import attach, lora_parameters, match_precision
from loraedit.planning.depth import from_few_blocks
from loraedit.planning.meter import Meter, gpu_attention
from loraedit.planning.skeleton import HALF, build, component_config, without_contents
from loraedit.runtime.memory import blocks, checkpoints_kept, tile
from loraedit.settings import Resources, TrainSettings
from loraedit.storage.files import cache_folder, fingerprint, read_json, write_json
from loraedit.training.loop import make_optimizer
from loraedit.types import OnStep, Size, no_step

__all__ = ["PHASES", "Cost", "Shape", "lora_bytes", "measure_cost"]

FORMAT = 5
"""Part of the key of every stored figure; raise it when the measuring changes."""

PHASES = ("text_encode", "image_encode", "vae_encode", "train", "sample", "vae_decode")


@dataclass(frozen=True)
class Shape:
    """The shape that the model sees: padded frame count and working size, in pixels."""

    frames: int
    size: Size

    def latent(self, card: ModelCard) -> tuple[int, int, int]:
        """Returns ``f, h, w``."""
        return (
            (self.frames - 1) // card.temporal + 1,
            self.size.height // card.spatial,
            self.size.width // card.spatial,
        )

    def tokens(self, card: ModelCard) -> int:
        """Returns the number of video tokens in the transformer's sequence."""
        return tokens_of(card, self.latent(card))


@dataclass(frozen=True)
class Cost:
    """The cost of a phase once: one encoding, one training step, one forward pass.

    Attributes:
        flops: multiplications and additions, counted separately.
        weights_bytes: weights on the device, including the buffer for a layer or block that is brought in.
        working_bytes: the peak of all other memory; in training it includes gradients and moments.
        host_bytes: weights that stay in the host's memory.
    """

    flops: int
    weights_bytes: int
    working_bytes: int
    host_bytes: int = 0

    @property
    def peak_bytes(self) -> int:
        """Returns the peak memory of the device."""
        return self.weights_bytes + self.working_bytes


def measure_cost(
    card: ModelCard, shape: Shape, settings: TrainSettings, resources: Resources, on_step: OnStep = no_step
) -> dict[str, Cost]:
    """Returns the cost of every phase that the model has, by the names of :data:`PHASES`.

    Measured figures are stored in the user's cache folder.

    Args:
        settings: rank, LoRA targets and batch size matter.
        on_step: called with (phases done, phases in all) before each phase.
    """
    measure: dict[str, Callable[[], Cost]] = {"text_encode": lambda: _encode(card, _prompt_readers(card), resources)}
    if card.image_frames:
        measure["image_encode"] = lambda: _encode(card, ["image_encoder"], resources)
    measure["vae_encode"] = lambda: _vae(card, shape, resources, decode=False)
    measure["train"] = lambda: _train(card, shape, settings, resources)
    measure["sample"] = lambda: _forward(card, shape, settings, resources)
    measure["vae_decode"] = lambda: _vae(card, shape, resources, decode=True)
    costs = {}
    for done, (name, run) in enumerate(measure.items()):
        on_step(done, len(measure))
        costs[name] = run()
    return costs


def lora_bytes(card: ModelCard, settings: TrainSettings) -> int:
    """Returns the size of one LoRA in float32."""
    return _weights(card, _lora_of(settings), Resources())["lora"]


# ---- the transformer -------------------------------------------------------------------------------------------------


def _train(card: ModelCard, shape: Shape, settings: TrainSettings, resources: Resources) -> Cost:
    """Measures one optimiser step of a LoRA."""
    lora = _lora_of(settings)

    def step(shallow: ModelCard) -> dict[str, int]:
        family, transformer, condition, mode = _transformer(shallow, shape, lora, resources)
        transformer.train()
        if resources.recomputes:
            transformer.enable_gradient_checkpointing()
        optimizer, meter = make_optimizer(transformer, settings), Meter(transformer)
        saved = partial(checkpoints_kept, transformer, resources, torch.device("cpu"))
        with mode, meter, gpu_attention():
            together = batch([condition] * settings.batch_size)
            assert together.target is not None
            with torch.autocast("cpu", HALF), saved():
                time = torch.empty(settings.batch_size)
                velocity = family.velocity(transformer, torch.empty_like(together.target), time, together)
            loss = flow_matching_loss(velocity, together.target, torch.empty_like(velocity), torch.ones_like(velocity))
            torch.autograd.backward(loss)
            optimizer.step()
        return {"flops": meter.flops, "working": meter.peak}

    facts = (
        resources.recomputes, resources.offload_checkpoints, settings.batch_size, lora, _inputs(card, shape),
        _held(card, resources),
    )  # fmt: skip
    found = _stored(card, "train", shape, facts, lambda: from_few_blocks(card, step))
    return _with_weights(found, card, lora, resources)


def _forward(card: ModelCard, shape: Shape, settings: TrainSettings, resources: Resources) -> Cost:
    """Measures one forward pass with a LoRA."""
    lora = _lora_of(settings)

    def run(shallow: ModelCard) -> dict[str, int]:
        family, transformer, condition, mode = _transformer(shallow, shape, lora, resources)
        match_precision(transformer, HALF)
        meter = Meter(transformer)
        with mode, meter, gpu_attention(), torch.no_grad():
            together = batch([condition])
            assert together.target is not None
            family.velocity(transformer, together.target, torch.empty(1), together)
        return {"flops": meter.flops, "working": meter.peak}

    facts = lora, _inputs(card, shape), _held(card, resources)
    found = _stored(card, "sample", shape, facts, lambda: from_few_blocks(card, run))
    return _with_weights(found, card, lora, resources)


def _lora_of(settings: TrainSettings) -> dict[str, Any]:
    """Returns what determines the layers of a LoRA."""
    return {"rank": settings.rank, "targets": settings.lora_targets}


def _held(card: ModelCard, resources: Resources) -> tuple[str, dict[str, str]]:
    """Returns what determines how the weights of the first transformer are held."""
    return resources.weights, card.kinds(card.experts[0])


def _inputs(card: ModelCard, shape: Shape) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of all that the transformer reads; prompts and pictures take tokens too."""
    return open_family(card).encoded_shapes(shape.latent(card))


def _transformer(
    card: ModelCard, shape: Shape, lora: dict[str, Any], resources: Resources
) -> tuple[Family, Any, Encoded, FakeTensorMode]:
    """Returns a family, a fake transformer with its LoRA, a fake condition, and the fake mode."""
    family, mode = open_family(card), FakeTensorMode(allow_non_fake_inputs=True)
    transformer = _adapted(family, lora, resources)
    without_contents(transformer, mode)
    with mode:
        empty = {name: torch.empty(sizes) for name, sizes in _inputs(card, shape).items()}
        return family, transformer, Encoded(**empty), mode


def _adapted(family: Family, lora: dict[str, Any], resources: Resources) -> Any:
    """Returns the first transformer on the meta device, with a LoRA."""
    expert = family.experts[0].name
    transformer = build(family.card, expert)
    quantise_shapes(transformer, kinds_of(family.card, expert, resources.weights))
    with torch.device("meta"):
        attach(transformer, family.lora_targets(lora["targets"]), lora["rank"], seed=0)
    return transformer


def _with_weights(measured: dict[str, int], card: ModelCard, lora: dict[str, Any], resources: Resources) -> Cost:
    """Adds the weights where :func:`loraedit.runtime.memory.place` leaves them."""
    weights = _weights(card, lora, resources)
    if resources.swap_blocks:
        resident = weights["outside"] + weights["largest"]
        return Cost(measured["flops"], resident, measured["working"], weights["blocks"])
    return Cost(measured["flops"], weights["outside"] + weights["blocks"], measured["working"])


def _weights(card: ModelCard, lora: dict[str, Any], resources: Resources) -> dict[str, int]:
    def count(shallow: ModelCard) -> dict[str, int]:
        return _count_weights(shallow, lora, resources)

    facts = lora, _held(card, resources)
    return _stored(card, "weights", None, facts, lambda: from_few_blocks(card, count))


def _count_weights(card: ModelCard, lora: dict[str, Any], resources: Resources) -> dict[str, int]:
    """Counts bytes: frozen parameters of the blocks, the LoRA, the rest, and the largest block."""
    transformer = _adapted(open_family(card), lora, resources)
    inside = [each for block in blocks(transformer) for each in block.parameters() if not each.requires_grad]
    frozen = sum(map(_bytes, inside))
    return {
        "blocks": frozen,
        "lora": sum(_bytes(parameter) for _, parameter in lora_parameters(transformer)),
        "outside": sum(_bytes(parameter) for parameter in transformer.parameters()) - frozen,
        "largest": max(sum(map(_bytes, block.parameters())) for block in blocks(transformer)),
    }


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


# ---- encoders and VAE ------------------------------------------------------------------------------------------------


def _encode(card: ModelCard, names: Sequence[str], resources: Resources) -> Cost:
    """Measures one prompt or picture, read by encoders that are in memory together and run one after the other."""
    found = [_stored(card, name, None, card.settings.text_tokens, partial(_run_encoder, card, name)) for name in names]
    flops, weights = sum(part["flops"] for part in found), sum(part["weights"] for part in found)
    working, largest = (max((part[figure] for part in found), default=0) for figure in ("working", "largest"))
    if resources.offload_encoders:  # a layer computes while the next one arrives
        return Cost(flops, 2 * largest, working, weights)
    return Cost(flops, weights, working)


def _prompt_readers(card: ModelCard) -> list[str]:
    """Returns the components that read a prompt."""
    others = {*card.experts, "vae", "image_encoder"}
    return [name for name in card.components if name not in others]


def _run_encoder(card: ModelCard, name: str) -> dict[str, int]:
    encoder, mode = build(card, name), FakeTensorMode(allow_non_fake_inputs=True)
    without_contents(encoder, mode)
    meter = Meter(encoder)
    with mode, meter, gpu_attention(), torch.no_grad():
        open_family(card).run_encoder(name, encoder)
    sizes = [_bytes(parameter) for parameter in encoder.parameters()]
    return {"flops": meter.flops, "working": meter.peak, "weights": sum(sizes), "largest": max(sizes)}


def _vae(card: ModelCard, shape: Shape, resources: Resources, decode: bool) -> Cost:
    """Measures one clip in float32, the precision in which diffusers keeps the VAE."""

    def run() -> dict[str, int]:
        family, vae, mode = (
            open_family(card),
            build(card, "vae", torch.float32),
            FakeTensorMode(allow_non_fake_inputs=True),
        )
        without_contents(vae, mode)
        meter = Meter(vae)
        tile(vae, resources, shape.size.height, shape.size.width)
        with mode, meter, gpu_attention(), torch.no_grad():
            if decode:
                latents = torch.empty(1, card.latent_channels, *shape.latent(card))
                family.vae_decode(vae, latents)
            else:
                family.vae_encode(vae, torch.empty(1, 3, shape.frames, shape.size.height, shape.size.width))
        weights = sum(_bytes(parameter) for parameter in vae.parameters())
        return {"flops": meter.flops, "working": meter.peak, "weights": weights}

    found = _stored(card, "vae", shape, [resources.tile_vae, decode], run)
    return Cost(found["flops"], found["weights"], found["working"])


# ---- stored figures --------------------------------------------------------------------------------------------------


def _stored(
    card: ModelCard, component: str, shape: Shape | None, facts: Any, measure: Callable[[], dict[str, int]]
) -> dict[str, int]:
    """Returns figures from the cache folder, or measures and stores them there."""
    part = card.experts[0] if component in ("train", "sample", "weights") else component
    versions = [library.__version__ for library in (torch, diffusers, peft, transformers)]
    kind, config = component_config(card, part)
    key = fingerprint(FORMAT, versions, component, kind.__name__, config, asdict(shape) if shape else None, facts)
    path = cache_folder("plans") / f"{component}-{key}.json"
    figures = _read(path)
    if figures is None:
        with _warnings_hidden():
            figures = measure()
        write_json(path, figures)
    return figures


def _read(path: Path) -> dict[str, int] | None:
    try:
        stored = read_json(path)
        return {str(name): int(value) for name, value in stored.items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return None


@contextmanager
def _warnings_hidden() -> Iterator[None]:
    """Hides the libraries' warnings about casts and checkpoints, which mean nothing for fake tensors."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
