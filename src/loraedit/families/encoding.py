"""Encodes samples: texts and pictures first, then clips, each content once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import TypeVar

import torch
from torch import Tensor

from loraedit.diffusion.samples import Sample
from loraedit.families.base import Encoded, EncoderInput, Family, Fields
from loraedit.storage.files import fingerprint
from loraedit.types import OnStep, Pixels, no_step

__all__ = [
    "Embed",
    "EncodeClips",
    "embed_prompt",
    "encode",
    "encode_by",
    "input_key",
    "inputs_of",
    "joined",
    "made_once",
]

Embed = Callable[[Sequence[EncoderInput]], list[Fields]]
EncodeClips = Callable[[Sequence[Pixels]], list[Tensor]]

Value = TypeVar("Value")
Result = TypeVar("Result")


def encode(family: Family, samples: Sequence[Sample], device: torch.device, on_step: OnStep = no_step) -> list[Encoded]:
    """Encodes samples whose frames already have the working size and a valid count.

    Args:
        on_step: called with (clips encoded, clips in all).
    """

    def embed(inputs: Sequence[EncoderInput]) -> list[Fields]:
        keys = [input_key(each) for each in inputs]
        return made_once(inputs, keys, lambda some: family.embed(some, device), {})

    def encode_clips(clips: Sequence[Pixels]) -> list[Tensor]:
        keys = [fingerprint(clip) for clip in clips]
        return made_once(clips, keys, lambda some: family.encode_clips(some, device, on_step), {})

    return encode_by(family, samples, embed, encode_clips)


def encode_by(family: Family, samples: Sequence[Sample], embed: Embed, encode_clips: EncodeClips) -> list[Encoded]:
    """Encodes samples by two functions, which are each called once with everything that the samples consist of."""
    inputs = [inputs_of(family, each) for each in samples]
    clips = [family.clips(each) for each in samples]
    embeddings = iter(embed([each for some in inputs for each in some]))
    latents = iter(encode_clips([each for some in clips for each in some]))
    encoded = []
    for sample, its_inputs, its_clips in zip(samples, inputs, clips, strict=True):
        fields = joined(islice(embeddings, len(its_inputs)))
        encoded.append(Encoded(**fields, **family.assemble(sample, list(islice(latents, len(its_clips))))))
    return encoded


def inputs_of(family: Family, sample: Sample) -> list[EncoderInput]:
    """Returns what the encoders read of a sample: its text, its picture, and the last frame that it shows."""
    return family.encoder_inputs(sample.prompt, (sample.image, sample.condition[-1:]))


def embed_prompt(family: Family, prompt: str, device: torch.device) -> Fields:
    """Encodes a prompt without a picture."""
    return joined(family.embed(family.encoder_inputs(prompt), device))


def joined(parts: Iterable[Fields]) -> Fields:
    """Returns the fields of several embeddings together."""
    return {name: value for part in parts for name, value in part.items()}


def input_key(given: EncoderInput) -> str:
    """Returns a key of what encoders read, by its content."""
    return fingerprint(given.prompt, *given.pictures)


def made_once(
    values: Sequence[Value],
    keys: Sequence[str],
    make: Callable[[list[Value]], list[Result]],
    known: dict[str, Result],
) -> list[Result]:
    """Returns a result for each value; those of one key are made once, and none that is known.

    Args:
        values: from which results are made.
        keys: the key of each value.
        make: makes some results, each from a value.
        known: results by key; new ones are added.
    """
    missing = {key: value for key, value in zip(keys, values, strict=True) if key not in known}
    if missing:
        known.update(zip(missing, make(list(missing.values())), strict=True))
    return [known[key] for key in keys]
