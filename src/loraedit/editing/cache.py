"""The cache of an edit: results of stages in the run folder, named by the content of everything that they depend on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from loraedit.diffusion.samples import Sample
from loraedit.editing.context import EditContext
from loraedit.editing.reporter import Reporter
from loraedit.families.base import Encoded
from loraedit.storage.files import fingerprint, save_tensors, try_load_tensors

__all__ = ["StageCache"]

STAGE_FORMAT = 6
"""A part of every key. Raise it when the result of a stage changes, so that old files are not taken for new ones."""


class StageCache:
    """Keys for the results of stages, and the encoded samples by their keys."""

    def __init__(self, context: EditContext, reporter: Reporter) -> None:
        self._context, self._reporter = context, reporter

    def key(self, *parts: Any) -> str:
        """Returns a key for a file name: a hash of the parts, the model, the kind of device and the stage format."""
        context = self._context
        return fingerprint(STAGE_FORMAT, context.model_key, context.device.type, context.resources.alters(), *parts)

    def sample_key(self, sample: Sample) -> str:
        """Returns the key of a sample."""
        return self.key(*sample.parts())

    def path(self, kind: str, key: str) -> Path:
        """Returns the cache file of one kind of result, such as ``latents``."""
        return self._context.folder / "cache" / f"{kind}-{key}.safetensors"

    def encoded(self, samples: Sequence[Sample], part: int = 0, parts: int = 1) -> dict[str, Encoded]:
        """Encodes the samples that are not in the cache, and returns all of them by key.

        Args:
            samples: samples at the working size, with a valid frame count.
            part: index of this call among the parts of the encoding phase.
            parts: number of these parts.
        """
        keys = [self.sample_key(sample) for sample in samples]
        tensors = {key: try_load_tensors(self.path("sample", key), ("condition", "text")) for key in keys}
        missing = [(key, sample) for key, sample in zip(keys, samples, strict=True) if tensors[key] is None]
        if missing:
            with self._reporter.phase("encode", part, parts) as on_step:
                encoded = self._context.family.encode([sample for _, sample in missing], self._context.device, on_step)
                for (key, _), value in zip(missing, encoded, strict=True):
                    tensors[key] = value.tensors()
                    save_tensors(self.path("sample", key), value.tensors())
        return {key: Encoded(**values) for key, values in tensors.items() if values is not None}
