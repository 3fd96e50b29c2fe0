"""Models of the published configurations with random weights, built on the device without a checkpoint on disk."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from loraedit.families import open_family
from loraedit.families.base import Encoded
from loraedit.families.frozen_weights import kinds_of, read_transformer
from loraedit.lora.adapter import lora_parameters
from loraedit.planning import Shape
from loraedit.planning.skeleton import build, component_config
from loraedit.settings import Resources
from loraedit.types import Size
from scripts.gpu_day.bench import Bench

__all__ = ["give_effect", "random_component", "random_sample", "random_transformer"]

TABLE_STD = 0.02
LORA_STD = 0.02


def random_transformer(bench: Bench, resources: Resources, keep_on: torch.device | None = None) -> Any:
    """Builds the first transformer, frozen, through the code that reads one from files.

    Equal calls give equal weights, whatever the resources.

    Args:
        bench: the model and the device on which the values are drawn.
        resources: how the weights are held.
        keep_on: where they are kept; None is the device.
    """
    name = bench.card.experts[0]
    kind, config = component_config(bench.card, name)
    values = _values(build(bench.card, name).state_dict(), bench.device)
    kept = ((each, value if keep_on is None else value.to(keep_on)) for each, value in values)
    held = kinds_of(bench.card, name, resources.weights)
    transformer = read_transformer(kind, config, kept, held, torch.bfloat16, bench.device).eval().requires_grad_(False)
    return transformer.to(keep_on or bench.device)


def random_component(bench: Bench, name: str, dtype: torch.dtype) -> Any:
    """Builds a VAE or an encoder on the device; these have no buffers."""
    module = build(bench.card, name, dtype)
    shapes = dict(module.named_parameters())
    values = {id(shapes[path]): nn.Parameter(value, False) for path, value in _values(shapes, bench.device)}
    for part in module.modules():
        for own, parameter in part._parameters.items():
            if parameter is not None:
                part._parameters[own] = values[id(parameter)]
    return module


def _values(shapes: dict[str, Tensor], device: torch.device) -> Iterator[tuple[str, Tensor]]:
    """Yields random values in the shapes and precisions of tensors by name: norms are 1, biases 0."""
    for index, (name, like) in enumerate(shapes.items()):
        value = torch.empty(like.shape, dtype=like.dtype, device=device)
        if name.endswith("bias"):
            value.zero_()
        elif name.endswith("gamma") or like.ndim < 2:
            value.fill_(1.0)
        else:
            std = TABLE_STD if name.endswith("table") else like[0].numel() ** -0.5
            value.normal_(0, std, generator=torch.Generator(device).manual_seed(index))
        yield name, value


def give_effect(transformer: nn.Module) -> None:
    """Fills both matrices of the LoRA with random values, in place: equal ones for equal layers."""
    with torch.no_grad():
        for index, (_, parameter) in enumerate(lora_parameters(transformer)):
            values = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(index))
            parameter.copy_(LORA_STD * values)


def random_sample(bench: Bench, frames: int, size: Size) -> Encoded:
    """Returns noise in the shapes of an encoded clip, on the device; half of its mask is kept."""
    generator, card = torch.Generator().manual_seed(0), bench.card
    shapes = open_family(card).encoded_shapes(Shape(frames, size).latent(card))
    values = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    mask = values["condition"][: -card.latent_channels]
    mask.copy_(mask > 0)
    return Encoded(**values).to(bench.device)
