"""Measures encoders and VAE by running them on fake tensors, placed as in a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from loraedit.families import open_family
from loraedit.families.model_card import ModelCard
from loraedit.planning.meter import Meter, gpu_attention
from loraedit.planning.phase_cost import Cost, Shape
from loraedit.planning.skeleton import build, without_contents
from loraedit.planning.stored import Figures, stored
from loraedit.runtime.memory import place_encoder, tile, weights_held
from loraedit.settings import Resources

__all__ = ["encoder_cost", "prompt_readers", "vae_cost"]

CPU = torch.device("cpu")


def prompt_readers(card: ModelCard) -> list[str]:
    """Returns the components that read a prompt."""
    others = {*card.experts, "vae", "image_encoder"}
    return [name for name in card.components if name not in others]


def encoder_cost(card: ModelCard, names: Sequence[str], resources: Resources, dtype: torch.dtype) -> Cost:
    """Measures one prompt or picture, read by encoders that are in memory together and run one after the other.

    Args:
        card: the model.
        names: the encoders.
        resources: whether their layers are swapped.
        dtype: the precision in which they are loaded.
    """
    hosted = resources.offload_encoders
    facts = [card.settings.text_tokens, hosted, str(dtype)]
    found = [
        stored(card, name, "encoder", facts, partial(_run_encoder, card, name, resources, dtype)) for name in names
    ]
    total = {figure: sum(part[figure] for part in found) for figure in ("flops", "device", "host", "loaded")}
    working = max((part["working"] for part in found), default=0)
    return Cost(total["flops"], total["device"], working, total["host"], loaded_bytes=total["loaded"])


def _run_encoder(card: ModelCard, name: str, resources: Resources, dtype: torch.dtype) -> Figures:
    encoder, mode = build(card, name, dtype), FakeTensorMode(allow_non_fake_inputs=True)
    without_contents(encoder, mode)
    loaded = weights_held(encoder).device
    with mode, gpu_attention(), torch.no_grad():
        place_encoder(encoder, resources, CPU)
        held = weights_held(encoder)
        with Meter(encoder) as meter:
            open_family(card).run_encoder(name, encoder)
    return {
        "flops": meter.flops, "working": meter.peak, "device": held.device, "host": held.host, "loaded": loaded
    }  # fmt: skip


def vae_cost(card: ModelCard, shape: Shape, resources: Resources, *, decode: bool) -> Cost:
    """Measures one clip in float32, the precision in which diffusers keeps the VAE."""

    def run() -> Figures:
        family, vae = open_family(card), build(card, "vae", torch.float32)
        mode = FakeTensorMode(allow_non_fake_inputs=True)
        without_contents(vae, mode)
        tile(vae, resources, shape.size.height, shape.size.width)
        with mode, Meter(vae) as meter, gpu_attention(), torch.no_grad():
            if decode:
                latents = torch.empty(1, card.latent_channels, *shape.latent(card))
                family.vae_decode(vae, latents)
            else:
                family.vae_encode(vae, torch.empty(1, 3, shape.frames, shape.size.height, shape.size.width))
        return {"flops": meter.flops, "working": meter.peak, "weights": weights_held(vae).device}

    found = stored(card, "vae", "vae", [asdict(shape), resources.tile_vae, decode], run)
    return Cost(found["flops"], found["weights"], found["working"], loaded_bytes=found["weights"])
