"""The cache of an edit: results of stages in the run folder, named by the content of everything that they depend on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from loraedit.diffusion.samples import Sample
from loraedit.editing.context import EditContext
from loraedit.editing.known_inputs import known_inputs
from loraedit.editing.reporter import Reporter
from loraedit.families.base import Encoded, EncoderInput, Fields
from loraedit.families.encoding import encode_by, joined, made_once
from loraedit.storage.files import fingerprint, save_tensors, try_load_tensors
from loraedit.types import Pixels

__all__ = ["StageCache"]

Value = TypeVar("Value")

STAGE_FORMAT = 8
"""A part of every key. Raise it when the result of a stage changes, so that old files are not taken for new ones."""


class StageCache:
    """Keys for the results of stages; embeddings of texts and pictures, and latents of clips, by their content."""

    def __init__(self, context: EditContext, reporter: Reporter) -> None:
        self._context, self._reporter = context, reporter

    def key(self, *parts: Any) -> str:
        """Returns a key for a file name, of what the transformer reads or makes: a hash of all that may change it."""
        card, resources = self._context.job.card, self._context.resources
        quantised = any(card.kinds(expert) for expert in card.experts)
        return self._encoding_key(resources.alters(quantised=quantised), *parts)

    def _encoding_key(self, *parts: Any) -> str:
        """Returns the key of what an encoder makes: a hash of the model, the kind of device and the stage format."""
        return fingerprint(STAGE_FORMAT, self._context.model_key, self._context.device.type, *parts)

    def _clip_key(self, clip: Pixels) -> str:
        return self._encoding_key(self._context.resources.tile_vae, clip)

    def sample_key(self, sample: Sample) -> str:
        """Returns the key of a sample."""
        return self.key(*sample.parts())

    def path(self, kind: str, key: str) -> Path:
        """Returns the cache file of one kind of result, such as ``latents``."""
        return self._context.folder / "cache" / f"{kind}-{key}.safetensors"

    def encoded(self, samples: Sequence[Sample], part: int = 0, parts: int = 1) -> dict[str, Encoded]:
        """Returns samples as the transformer takes them, by key. What the cache lacks is encoded.

        Args:
            samples: samples at the working size, with a valid frame count.
            part: index of this call among the parts of the encoding phase.
            parts: number of these parts.
        """
        encode_clips = partial(self._latents, part=part, parts=parts)
        encoded = encode_by(self._context.family, samples, self.embeddings, encode_clips)
        return dict(zip((self.sample_key(sample) for sample in samples), encoded, strict=True))

    def embeddings(self, inputs: Sequence[EncoderInput]) -> list[Fields]:
        """Returns the embeddings of texts and pictures.

        The first one that the cache lacks has all encoded that the edit is known to need, so that each encoder loads
        once and is gone before a transformer loads.
        """

        def embed(missing: Sequence[EncoderInput]) -> list[Fields]:
            new = {self._input_key(each): each for each in (*missing, *known_inputs(self._context))}
            new = {key: each for key, each in new.items() if not self.path("embedding", key).exists()}
            with self._reporter.phase("encode"):
                made = self._context.family.embed(list(new.values()), self._context.device)
            for (key, each), fields in zip(new.items(), made, strict=True):
                save_tensors(self.path("embedding", key), fields)
                self._reporter.log(event="encoded", what=_described(each), key=key)
            return made[: len(missing)]

        return self._each("embedding", (), inputs, [self._input_key(each) for each in inputs], embed)

    def prompt_embedding(self, prompt: str) -> Fields:
        """Returns the fields of :class:`Encoded` that depend on a prompt without a picture."""
        return joined(self.embeddings(self._context.family.encoder_inputs(prompt)))

    def _latents(self, clips: Sequence[Pixels], part: int, parts: int) -> list[Tensor]:
        """Returns the latents of clips."""

        def encode(missing: Sequence[Pixels]) -> list[Fields]:
            with self._reporter.phase("encode", part, parts) as on_step:
                made = self._context.family.encode_clips(missing, self._context.device, on_step)
            for clip, latents in zip(missing, made, strict=True):
                key = self._clip_key(clip)
                save_tensors(self.path("clip", key), {"latents": latents})
                self._reporter.log(event="encoded", what="clip", key=key)
            return [{"latents": latents} for latents in made]

        found = self._each("clip", ("latents",), clips, [self._clip_key(clip) for clip in clips], encode)
        return [fields["latents"] for fields in found]

    def _each(
        self,
        kind: str,
        names: tuple[str, ...],
        values: Sequence[Value],
        keys: Sequence[str],
        make: Callable[[Sequence[Value]], list[Fields]],
    ) -> list[Fields]:
        """Returns the tensors of each value from the cache, or else makes them.

        Args:
            kind: the kind of cache file.
            names: tensors that a file must have.
            values: from which tensors are made.
            keys: their keys.
            make: makes the tensors of some values and writes them to the cache.
        """
        files = {key: try_load_tensors(self.path(kind, key), names) for key in dict.fromkeys(keys)}
        known = {key: tensors for key, tensors in files.items() if tensors is not None}
        return made_once(values, keys, make, known)

    def _input_key(self, given: EncoderInput) -> str:
        return self._encoding_key(given.prompt, *given.pictures)


def _described(given: EncoderInput) -> str:
    """Returns what an input consists of, for the log."""
    parts = ["prompt"] * (given.prompt is not None) + ["picture"] * len(given.pictures)
    return " and ".join(parts)
