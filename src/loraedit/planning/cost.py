"""The cost of each phase of an edit, measured by running it on the true architecture with fake tensors."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
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
from loraedit.families.model_card import ModelCard
from loraedit.lora.adapter import attach, lora_parameters, match_precision
from loraedit.planning.depth import from_few_blocks
from loraedit.planning.meter import Meter, card_attention
from loraedit.planning.skeleton import HALF, build, component_config, without_contents
from loraedit.runtime.memory import blocks, tile
from loraedit.settings import Resources, TrainSettings
from loraedit.storage.files import cache_folder, fingerprint, read_json, write_json
from loraedit.training.loop import make_optimizer
from loraedit.types import OnStep, Size, no_step

__all__ = ["PHASES", "Cost", "Shape", "lora_bytes", "measure_cost"]

FORMAT = 4
"""Goes into the key of every kept figure; raise it when the measuring changes."""

PHASES = ("text_encode", "image_encode", "vae_encode", "train", "sample", "vae_decode")


@dataclass(frozen=True)
class Shape:
    """What the model sees: padded frames and the working size, in pixels."""

    frames: int
    size: Size

    def latent(self, card: ModelCard) -> tuple[int, int, int]:
        """``f, h, w``."""
        return (
            (self.frames - 1) // card.temporal + 1,
            self.size.height // card.spatial,
            self.size.width // card.spatial,
        )

    def tokens(self, card: ModelCard) -> int:
        """Places of the transformer's sequence, from the video alone."""
        return tokens_of(card, self.latent(card))


@dataclass(frozen=True)
class Cost:
    """What a phase needs once: an encoding, one training step, one forward pass.

    Attributes:
        flops: multiplications and additions, each counted.
        weights_bytes: on the device, with what is brought in for a layer or block.
        working_bytes: the most that lives beside them; in training, gradients and moments too.
        host_bytes: weights that stay in the host's memory.
    """

    flops: int
    weights_bytes: int
    working_bytes: int
    host_bytes: int = 0

    @property
    def peak_bytes(self) -> int:
        """The most that the device holds."""
        return self.weights_bytes + self.working_bytes


def measure_cost(
    card: ModelCard, shape: Shape, settings: TrainSettings, resources: Resources, on_step: OnStep = no_step
) -> dict[str, Cost]:
    """The cost of every phase that the model has, by the names of :data:`PHASES`.

    A figure that was measured once is kept in the user's cache folder.

    Args:
        settings: rank, LoRA targets and batch size count.
        on_step: told (phases done, phases in all).
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
    on_step(len(measure), len(measure))
    return costs


def lora_bytes(card: ModelCard, settings: TrainSettings) -> int:
    """Size of one LoRA in float32."""
    return _weights(card, {"rank": settings.rank, "targets": settings.lora_targets})["lora"]


# ---- the transformer -------------------------------------------------------------------------------------------------


def _train(card: ModelCard, shape: Shape, settings: TrainSettings, resources: Resources) -> Cost:
    """One optimiser step of a LoRA."""
    lora = {"rank": settings.rank, "targets": settings.lora_targets}

    def step(shallow: ModelCard) -> dict[str, int]:
        family, transformer, condition, mode = _transformer(shallow, shape, lora)
        transformer.train()
        if resources.recomputes:
            transformer.enable_gradient_checkpointing()
        optimizer, meter = make_optimizer(transformer, settings), Meter(transformer)
        kept = meter.checkpoints_on_host if resources.offload_checkpoints else nullcontext
        with mode, meter, card_attention():
            together = batch([condition] * settings.batch_size)
            assert together.target is not None
            with torch.autocast("cpu", HALF), kept():
                time = torch.empty(settings.batch_size)
                velocity = family.velocity(transformer, torch.empty_like(together.target), time, together)
            loss = flow_matching_loss(velocity, together.target, torch.empty_like(velocity), torch.ones_like(velocity))
            torch.autograd.backward(loss)
            optimizer.step()
        return {"flops": meter.flops, "working": meter.peak}

    facts = (resources.recomputes, resources.offload_checkpoints, settings.batch_size, lora)
    found = _kept(card, "train", shape, facts, lambda: from_few_blocks(card, step))
    return _with_weights(found, card, lora, resources)


def _forward(card: ModelCard, shape: Shape, settings: TrainSettings, resources: Resources) -> Cost:
    """One forward pass with a LoRA."""
    lora = {"rank": settings.rank, "targets": settings.lora_targets}

    def run(shallow: ModelCard) -> dict[str, int]:
        family, transformer, condition, mode = _transformer(shallow, shape, lora)
        match_precision(transformer, HALF)
        meter = Meter(transformer)
        with mode, meter, card_attention(), torch.no_grad():
            together = batch([condition])
            assert together.target is not None
            family.velocity(transformer, together.target, torch.empty(1), together)
        return {"flops": meter.flops, "working": meter.peak}

    found = _kept(card, "sample", shape, lora, lambda: from_few_blocks(card, run))
    return _with_weights(found, card, lora, resources)


def _transformer(card: ModelCard, shape: Shape, lora: dict[str, Any]) -> tuple[Family, Any, Encoded, FakeTensorMode]:
    """A transformer with its LoRA, and what it takes, all fake."""
    family, mode = open_family(card), FakeTensorMode(allow_non_fake_inputs=True)
    transformer = _adapted(family, lora)
    without_contents(transformer, mode)
    with mode:
        empty = {name: torch.empty(sizes) for name, sizes in family.encoded_shapes(shape.latent(card)).items()}
        return family, transformer, Encoded(**empty), mode


def _adapted(family: Family, lora: dict[str, Any]) -> Any:
    """The first transformer on the meta device, with a LoRA."""
    transformer = build(family.card, family.experts[0].name)
    with torch.device("meta"):
        attach(transformer, family.lora_targets(lora["targets"]), lora["rank"], seed=0)
    return transformer


def _with_weights(measured: dict[str, int], card: ModelCard, lora: dict[str, Any], resources: Resources) -> Cost:
    """Add the weights, as :func:`loraedit.runtime.memory.place` leaves them."""
    weights, passing = _weights(card, lora), 0
    file = card.files.get(card.experts[0])
    quantised = file is not None and file.path.suffix == ".gguf"  # it stays as it is in the file
    stored = file.path.stat().st_size if file and quantised else weights[resources.weights]
    if resources.offload_blocks or resources.weights == "fp8":
        passing = weights["largest"]
    if resources.offload_blocks and resources.weights == "fp8":
        passing += weights["largest"] // 2
    resident = weights["outside"] + passing + (0 if resources.offload_blocks else stored)
    return Cost(measured["flops"], resident, measured["working"], stored if resources.offload_blocks else 0)


def _weights(card: ModelCard, lora: dict[str, Any]) -> dict[str, int]:
    def count(shallow: ModelCard) -> dict[str, int]:
        return _count_weights(shallow, lora)

    return _kept(card, "weights", None, lora, lambda: from_few_blocks(card, count))


def _count_weights(card: ModelCard, lora: dict[str, Any]) -> dict[str, int]:
    """Bytes of parameters: frozen ones of blocks in full and as fp8, the LoRA, all but the former, one block."""
    transformer = _adapted(open_family(card), lora)
    frozen = [each for block in blocks(transformer) for each in block.named_parameters() if not each[1].requires_grad]
    full = sum(_bytes(parameter) for _, parameter in frozen)
    return {
        "full": full,
        "fp8": sum(_as_fp8(name, parameter) for name, parameter in frozen),
        "lora": sum(_bytes(parameter) for _, parameter in lora_parameters(transformer)),
        "outside": sum(_bytes(each) for each in transformer.parameters()) - full,
        "largest": max(sum(_bytes(each) for each in block.parameters()) for block in blocks(transformer)),
    }


def _as_fp8(name: str, parameter: Tensor) -> int:
    """Layerwise casting leaves norms, and what belongs to no layer, as they are."""
    return _bytes(parameter) if "norm" in name or "scale_shift_table" in name else parameter.numel()


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


# ---- encoders and VAE ------------------------------------------------------------------------------------------------


def _encode(card: ModelCard, names: Sequence[str], resources: Resources) -> Cost:
    """One prompt, or one picture, by encoders that are in memory together and run one after the other."""
    found = [_kept(card, name, None, card.settings.text_tokens, partial(_run_encoder, card, name)) for name in names]
    flops, weights = sum(each["flops"] for each in found), sum(each["weights"] for each in found)
    working, largest = (max((each[figure] for each in found), default=0) for figure in ("working", "largest"))
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
    with mode, meter, card_attention(), torch.no_grad():
        open_family(card).run_encoder(name, encoder)
    whole = [_bytes(each) for each in encoder.parameters()]
    return {"flops": meter.flops, "working": meter.peak, "weights": sum(whole), "largest": max(whole)}


def _vae(card: ModelCard, shape: Shape, resources: Resources, decode: bool) -> Cost:
    """One clip, in float32 as diffusers keeps the VAE."""

    def run() -> dict[str, int]:
        family, vae, mode = (
            open_family(card),
            build(card, "vae", torch.float32),
            FakeTensorMode(allow_non_fake_inputs=True),
        )
        without_contents(vae, mode)
        meter = Meter(vae)
        tile(vae, resources, shape.size.height, shape.size.width)
        with mode, meter, card_attention(), torch.no_grad():
            if decode:
                latents = torch.empty(1, card.latent_channels, *shape.latent(card))
                family.vae_decode(vae, latents)
            else:
                family.vae_encode(vae, torch.empty(1, 3, shape.frames, shape.size.height, shape.size.width))
        weights = sum(_bytes(each) for each in vae.parameters())
        return {"flops": meter.flops, "working": meter.peak, "weights": weights}

    found = _kept(card, "vae", shape, [resources.tile_vae, decode], run)
    return Cost(found["flops"], found["weights"], found["working"])


# ---- kept figures ----------------------------------------------------------------------------------------------------


def _kept(
    card: ModelCard, component: str, shape: Shape | None, facts: Any, measure: Callable[[], dict[str, int]]
) -> dict[str, int]:
    """A figure from the cache folder, or measured now and put there."""
    part = card.experts[0] if component in ("train", "sample", "weights") else component
    versions = [each.__version__ for each in (torch, diffusers, peft, transformers)]
    kind, config = component_config(card, part)
    key = fingerprint(FORMAT, versions, component, kind.__name__, config, asdict(shape) if shape else None, facts)
    path = cache_folder("plans") / f"{component}-{key}.json"
    kept = _read(path)
    if kept is None:
        with _quiet():
            kept = measure()
        write_json(path, kept)
    return kept


def _read(path: Path) -> dict[str, int] | None:
    try:
        kept = read_json(path)
        return {str(name): int(value) for name, value in kept.items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return None


@contextmanager
def _quiet() -> Iterator[None]:
    """The libraries' remarks on casts and checkpoints are of no use here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
